"""Runs with classes of devices: ``python results/fedtiny/classes.py RUNS`` writes ``classes.csv`` beside this file.

RUNS holds a run directory for each budget and seed, of whatever name. Printed is the table of the README, as Markdown.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from fedsim.cost import device_classes
from fedsim.output.results import Result, find_runs

TABLE = Path(__file__).with_name("classes.csv")
PHONE = "phone"
NAMES = {"small": "all afford the smaller", "mixed": "half of them the smaller", "large": "all afford the larger"}


def row(run: Result, smallest: float) -> dict[str, object]:
    """Accuracies are the mean over clients of their own part of the model, in percent; ``phones`` are those clients
    that have, or in the other runs of the seed would have, the smaller budget."""
    config = OmegaConf.to_container(OmegaConf.load(run.run_dir / "config.yaml"))
    assert isinstance(config, dict)
    last = run.clients[(run.clients["round"] == config["rounds"]) & (run.clients["split"] == "test")]
    accuracy = 100 * last.set_index("client")["accuracy"]
    drawn = {"classes": {PHONE: {"clients": 0.5}}}
    phones = next(each for each in device_classes(drawn, list(accuracy.index), config["seed"]) if each.name == PHONE)
    final, rounds = run.summary["final"], run.rounds
    budget = "mixed" if config["budget"]["classes"] else "small" if config["budget"]["flops"] == smallest else "large"
    return {
        "budget": budget,
        "seed": config["seed"],
        "torch": run.summary["versions"]["torch"],
        "density": final["density"],
        "density_phone": final.get(f"density_{PHONE}"),
        "clients": accuracy.mean(),
        "phones": accuracy[list(phones.clients)].mean(),
        "others": accuracy.drop(list(phones.clients)).mean(),
        "global": 100 * final["global_accuracy"],
        "megabytes": (rounds["bytes_up"].sum() + rounds["bytes_down"].sum()) / len(accuracy) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    runs = list(find_runs([parser.parse_args().runs]))
    smallest = min(float(OmegaConf.load(run.run_dir / "config.yaml").budget.flops) for run in runs)
    table = pd.DataFrame(row(run, smallest) for run in runs)
    table["budget"] = pd.Categorical(table["budget"], list(NAMES))
    table = table.sort_values(["budget", "seed"])
    table.round(4).to_csv(TABLE, index=False)
    columns = ["clients", "phones", "others", "global", "megabytes"]
    print("| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name, group in table.groupby("budget", observed=True):
        cells = (f"{group[column].mean():.1f} ± {group[column].std():.1f}" for column in columns)
        print(f"| {NAMES[str(name)]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
