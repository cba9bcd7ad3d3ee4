"""What ``diagnostics=true`` costs: ``python benchmarks/diagnostics.py rounds=40 model=cnn6``.

A run without and one with it, in turn and over again; the ratio of their whole times, tables and pictures included, is
formed inside a repetition, and the median quoted.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fedsim import simulate


def seconds(overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        simulate(*overrides, f"out_dir={folder}/run")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    options, overrides = parser.parse_known_args()
    seconds([*overrides, "rounds=1"])  # imports, and the cache of images
    rows = []
    for _ in range(options.repeat):
        plain, diagnosed = (seconds([*overrides, f"diagnostics={switch}"]) for switch in ("false", "true"))
        rows.append({"plain": plain, "diagnosed": diagnosed, "ratio": diagnosed / plain})
    print(pd.DataFrame(rows).describe().loc[["min", "50%", "max"]].round(3).to_string())


if __name__ == "__main__":
    main()
