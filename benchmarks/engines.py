"""Seconds per round of the engines, one after the other and over again: ``python benchmarks/engines.py model=cnn6``.

Machines are noisy, so every engine is run once per repetition, in turn, and the ratio to the first is formed inside a
repetition; quoted are medians. Start-up (importing torch, building the model) and the first round are left out.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fedsim import simulate


def seconds_per_round(overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        rounds = simulate(*overrides, "checkpoint_every=0", f"out_dir={folder}/run").rounds
    return float(rounds["seconds"].iloc[2:].median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["engine=inline", "engine.workers=1", "engine.workers=2"])
    parser.add_argument("--csv", type=Path, help="where the measurements are written")
    options, overrides = parser.parse_known_args()
    rows = [
        {"repetition": repetition, "engine": engine, "seconds": seconds_per_round([*overrides, *engine.split()])}
        for repetition in range(options.repeat)
        for engine in options.engines
    ]
    wide = pd.DataFrame(rows).pivot(index="repetition", columns="engine", values="seconds")[options.engines]
    ratio = wide.rdiv(wide[options.engines[0]], axis=0)
    table = pd.DataFrame({"seconds per round": wide.median(), "times as fast as the first": ratio.median()})
    print(table.round(3).to_string())
    if options.csv:
        pd.DataFrame(rows).to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
