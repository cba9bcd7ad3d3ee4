"""The table as numbers and a picture: ``python results/fedtiny/plot.py`` reads ``small.csv`` beside this file.

It prints the tables of the README, as Markdown, and writes ``density.png``.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fedsim.output.results import read_table
from fedsim.report.plots import colour, legend_below, picture

HERE = Path(__file__).parent
LABELS = {"fedtiny": "FedTiny", "magnitude": "magnitude", "snip": "SNIP", "prunefl": "PruneFL", "feddst": "FedDST"}
CLIENTS, SEEDS = 10, 3
MARKERS = dict(zip(LABELS, "osD^v", strict=True))


COSTS = {
    "up": ["bytes_up"],
    "down": ["bytes_down"],
    "bytes": ["bytes_up", "bytes_down"],
    "FLOPs": ["device_gflops"],
    "largest round": ["device_gflops_largest"],
    "memory": ["device_memory_mb_largest"],
}


def against_dense(table: pd.DataFrame) -> pd.DataFrame:
    """What a run reaches and costs, and against dense FedAvg of the same seed, which has the same clients."""
    dense = table[table["method"] == "fedavg"].set_index("seed")
    table = table.assign(accuracy=100 * table["global_accuracy"])
    table["difference"] = table["accuracy"] - table["seed"].map(100 * dense["global_accuracy"])
    table["megabytes"] = (table["bytes_up"] + table["bytes_down"]) / CLIENTS / 1e6
    for name, columns in COSTS.items():
        table[name] = table[columns].sum(axis=1) / table["seed"].map(dense[columns].sum(axis=1))
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method and density: runs, and mean and sample standard deviation over seeds of every number."""
    groups = table.groupby(["method", "density"])
    numbers = groups[["accuracy", "difference", "megabytes", *COSTS]]
    result = numbers.mean().join(numbers.std().add_suffix("_std"))
    return result.assign(runs=groups.size()).reset_index()


def cell(row: pd.Series, name: str) -> str:
    """Mean and spread; of less than three runs, how many."""
    spread = "" if row["runs"] < 2 else f" ± {row[f'{name}_std']:.1f}"
    return f"{row[name]:.1f}{spread}" + ("" if row["runs"] == SEEDS else f" (n = {row['runs']:.0f})")


def print_tables(rows: pd.DataFrame) -> None:
    """The tables of the README, as Markdown."""
    indexed = rows.set_index(["method", "density"])
    kept = sorted(set(rows["density"]) - {1.0})
    for name in ("accuracy", "difference"):
        print(f"\n| {name} | " + " | ".join(f"{density:g}" for density in kept) + " |")
        print("|---|" + "---:|" * len(kept))
        for method, label in LABELS.items():
            cells = (indexed.loc[key] if (key := (method, density)) in indexed.index else None for density in kept)
            print(f"| {label} | " + " | ".join("" if each is None else cell(each, name) for each in cells) + " |")
    print(f"\ndense FedAvg: {cell(indexed.loc[('fedavg', 1.0)], 'accuracy')}")
    print("\n| | density | MB | " + " | ".join(COSTS) + " |\n|---|---:|" + "---:|" * (len(COSTS) + 1))
    for method, label in {"fedavg": "dense FedAvg", **LABELS}.items():
        for _, row in rows[rows["method"] == method].iterrows():
            costs = " | ".join(f"{row[name]:.3f}" for name in COSTS)
            print(f"| {label} | {row['density']:g} | {row['megabytes']:.2f} | {costs} |")


def lines(axes: Axes, rows: pd.DataFrame, x: str, dodge: float) -> None:
    """Accuracy against x with one standard deviation, a line for each method; dense FedAvg is the band."""
    dense = rows[rows["method"] == "fedavg"].iloc[0]
    mean, spread = dense["accuracy"], dense["accuracy_std"]
    axes.axhspan(mean - spread, mean + spread, color="0.85", linewidth=0)
    axes.axhline(mean, color="0.4", linewidth=1, linestyle="--")
    for number, (method, label) in enumerate(LABELS.items()):
        mine = rows[rows["method"] == method].sort_values("density")
        places = mine[x] * np.exp(dodge * (number - (len(LABELS) - 1) / 2))
        axes.errorbar(
            places,
            mine["accuracy"],
            mine["accuracy_std"].fillna(0),
            color=colour(number),
            marker=MARKERS[method],
            markersize=4.5,
            linewidth=1.2,
            capsize=2,
            elinewidth=0.8,
            label=label,
        )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("global accuracy (%)")
    axes.set_ylim(0, 50)


def draw(rows: pd.DataFrame, path: Path) -> None:
    with picture(path, 8.5, 3.6, columns=2) as (density, megabytes):
        lines(density, rows, "density", 0.05)
        dense = rows[rows["method"] == "fedavg"].iloc[0]
        density.text(
            0.99,
            dense["accuracy"] + dense["accuracy_std"] + 0.6,
            f"dense FedAvg, {dense['megabytes']:.1f} MB",
            transform=density.get_yaxis_transform(),  # x as a share of the axes, y as data
            fontsize=7,
            ha="right",
            va="bottom",
        )
        density.set_title("after 30 rounds, mean and standard deviation over seeds", fontsize=9)
        density.set_xlabel("share of weights kept")
        kept = sorted(set(rows["density"]) - {1.0})
        density.xaxis.set_major_locator(FixedLocator(kept))
        density.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        density.set_xlim(kept[0] / 1.3, kept[-1] * 1.3)
        lines(megabytes, rows, "megabytes", 0.0)
        megabytes.plot(dense["megabytes"], dense["accuracy"], "*", color="0.4", markersize=9)
        megabytes.set_title("the same by what travels in all rounds; star: dense", fontsize=9)
        megabytes.set_xlabel("megabytes per client, up and down")
        megabytes.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4, 8, 16]))
        megabytes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        legend_below(density)


def main() -> None:
    table = against_dense(read_table(HERE / "small.csv"))
    rows = summary(table)
    print_tables(rows)
    draw(rows, HERE / "density.png")


if __name__ == "__main__":
    main()
