"""Size and seconds of ``report.html``: ``python benchmarks/page.py --clients 1000 --rounds 500``.

Writes run directories with drawn numbers in the format of real ones, then makes the page of the first and of all.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))

from fedsim.config.composition import compose
from fedsim.core.run_files import PAGE
from fedsim.metrics.round_metrics import nested
from fedsim.output.results import Result, read_result
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import write_page

DOMAINS = ("plain", "inverted", "faded", "texture", "street", "font")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clients", 1000), ("rounds", 500), ("classes", 100), ("runs", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, str(number)) for number in range(options.runs)]
        for number, folder in enumerate(folders):
            draw_run(folder, number, options.clients, options.rounds, options.classes)
        write_page(group_by_settings([read_result(folders[0])]), Path(scratch))  # what is made once for all pages
        for chosen in (folders[:1], folders):
            began, computed = perf_counter(), process_time()
            runs = [read_result(folder) for folder in chosen]
            read = perf_counter() - began
            told = report(runs, Path(scratch))
            print(
                f"{len(runs)} runs: {told} MB, read in {read:.1f} s, all in {perf_counter() - began:.1f} s, "
                f"{process_time() - computed:.1f} s of computing"
            )


def report(runs: Sequence[Result], folder: Path) -> str:
    write_page(group_by_settings(list(runs)), folder)
    return f"{(folder / PAGE).stat().st_size / 1e6:.2f}"


def draw_run(folder: Path, number: int, clients: int, rounds: int, classes: int) -> None:
    folder.mkdir()
    strategy, seed = ("fedavg", "fedbn")[number % 2], number // 2
    config = compose([f"strategy={strategy}", f"seed={seed}", f"rounds={rounds}"])
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    draw, steps = np.random.default_rng(number), np.arange(rounds + 1)
    rise = 1 - np.exp(-steps / (rounds / 6))
    accuracy = 0.1 + draw.uniform(0.2, 0.8, clients) * rise[:, None] + draw.normal(0, 0.03, (rounds + 1, clients))
    accuracy = accuracy.clip(0, 1)
    domains = np.array([DOMAINS[client % len(DOMAINS)] for client in range(clients)])
    each = {"round": steps.repeat(clients), "client": np.tile(np.arange(clients), rounds + 1)}
    table = {**each, "domain": np.tile(domains, rounds + 1), "split": "test", "accuracy": accuracy.ravel()}
    pd.DataFrame(table).to_csv(folder / "clients.csv", index=False)
    row = {"client_accuracy_mean": accuracy.mean(1), "global_accuracy": accuracy.mean(1), "density": 1 - rise / 2}
    for domain in DOMAINS:
        row[f"client_domain_accuracy.{domain}"] = accuracy[:, domains == domain].mean(1)
        row[f"domain_accuracy.{domain}"] = row[f"client_domain_accuracy.{domain}"]
    row |= {shot: draw.random(rounds + 1) for shot in ("many", "medium", "few")}
    costs = {"seconds": 1.0, "bytes_up": 1e7, "bytes_down": 1e7, "device_gflops": 8.8, "device_memory_mb": 15.1}
    pd.DataFrame({"round": steps, **row, **costs}).to_csv(folder / "rounds.csv", index=False)
    names = [f"class {each}" for each in range(classes)]
    shots = [("many", "medium", "few")[3 * each // classes] for each in range(classes)]
    by_class = {"round": steps.repeat(classes), "class": names * (rounds + 1), "shot": shots * (rounds + 1)}
    by_class |= {"train_images": np.tile(np.arange(classes, 0, -1), rounds + 1)}
    by_class |= {"accuracy": draw.random(classes * (rounds + 1))}
    pd.DataFrame(by_class).to_csv(folder / "classes.csv", index=False)
    held = pd.DataFrame(draw.poisson(5, (clients, classes)), columns=[f"train.{name}" for name in names])
    pd.concat([pd.DataFrame({"client": range(clients), "domain": domains}), held], axis=1).to_csv(
        folder / "federation.csv", index=False
    )
    last = nested({"round": rounds, **{name: float(values[-1]) for name, values in row.items()}})
    summary = {"strategy": strategy, "dataset": "digits", "seed": seed, "rounds": rounds, "final": last, "best": last}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
