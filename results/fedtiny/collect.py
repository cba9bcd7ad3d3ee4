"""The runs as one table: ``python results/fedtiny/collect.py RUNS`` writes ``small.csv`` beside this file.

RUNS holds a run directory for each method, density and seed, of whatever name. Runs that have not come to their last
round are left out; they and those of the grid that are not there are printed. A row of the table stays if RUNS has no
run in its place.
"""

import argparse
from itertools import product
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from fedsim.methods.sparse.masks import entry, prunable_layers
from fedsim.models import CNNSmall
from fedsim.output.results import Result, find_runs

TABLE = Path(__file__).with_name("small.csv")
DENSITIES, SEEDS = (0.02, 0.05, 0.2), (0, 1, 2)
METHODS = ("fedtiny", "prunefl", "magnitude", "snip", "feddst")
GRID = [("fedavg", 1.0, seed) for seed in SEEDS] + list(product(METHODS, DENSITIES, SEEDS))
KEYS = ["method", "density", "seed"]


def row(run: Result) -> dict[str, object]:
    """Bytes are those of all clients and rounds; GFLOPs and memory those of the client with the most images."""
    config = OmegaConf.load(run.run_dir / "config.yaml")
    rounds, final, best = run.rounds, run.summary["final"], run.summary["best"]
    name, density = config["strategy"]["name"], config["strategy"].get("density", 1.0)
    model = CNNSmall(10, (3, 32, 32))
    weights = sum(model.get_parameter(entry(layer)).numel() for layer in prunable_layers(model))
    kept = float(rounds["density"].dropna().iloc[-1]) if "density" in rounds else 1.0
    return {
        "method": config["strategy"]["criterion"] if name == "pruned" else name,
        "density": density,
        "seed": config["seed"],
        "device": config["device"],
        "torch": run.summary["versions"]["torch"],
        "rounds": int(rounds["round"].iloc[-1]),
        "global_accuracy": final["global_accuracy"],
        "client_accuracy_mean": final["client_accuracy_mean"],
        "best_global_accuracy": best["global_accuracy"],
        "best_round": best["round"],
        "bytes_up": int(rounds["bytes_up"].sum()),
        "bytes_down": int(rounds["bytes_down"].sum()),
        "bytes_first_round": int(rounds.loc[rounds["round"] == 1, ["bytes_up", "bytes_down"]].sum().sum()),
        "device_gflops": round(float(rounds["device_gflops"].sum()), 4),
        "device_gflops_largest": round(float(rounds["device_gflops"].max()), 4),
        "device_memory_mb_largest": float(rounds["device_memory_mb"].max()),
        "weights_kept": round(kept * weights),
    }


def finished(run: Result) -> bool:
    """Whether it has come to its last round; ``summary.json`` is there from the first on."""
    return int(run.summary["final"]["round"]) == OmegaConf.load(run.run_dir / "config.yaml")["rounds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    runs = find_runs([parser.parse_args().runs])
    for run in runs:
        if not finished(run):
            print(f"not finished: {run.run_dir}, after round {run.summary['final']['round']}")
    table = pd.DataFrame(row(run) for run in runs if finished(run))
    if (table["client_accuracy_mean"] - table["global_accuracy"]).abs().max() < 1e-9:
        table = table.drop(columns="client_accuracy_mean")  # every client has the same test images and the same model
    if TABLE.exists():
        table = pd.concat([pd.read_csv(TABLE), table]).drop_duplicates(KEYS, keep="last").sort_values(KEYS)
    there = set(table[KEYS].itertuples(index=False, name=None))
    for method, density, seed in GRID:
        if (method, density, seed) not in there:
            print(f"missing: {method} {density:g} seed {seed}")
    table.to_csv(TABLE, index=False)
    print(f"{len(table)} of {len(GRID)} runs in {TABLE.name}")


if __name__ == "__main__":
    main()
