"""The table as a list and a picture: ``python results/strategies/plot.py`` reads the CSVs beside this file.

It prints the table of the README, as Markdown, and writes ``means.png``.
"""

from pathlib import Path

import pandas as pd

from fedsim.output.results import read_table
from fedsim.report.labels import named_label
from fedsim.report.plots import colour, legend_below, picture

HERE = Path(__file__).parent
COLUMNS = {"mean": "clients", "global": "one global model"}
FAILED = "of five rates, failed"


def means() -> pd.DataFrame:
    """One row for each method, the best first: mean and deviation of both accuracies, and the chosen rate."""
    table = read_table(HERE / "comparison.csv")
    kept = table[table["domain"].isin(COLUMNS)].pivot(index="label", columns="domain", values=["mean", "std"])
    kept.columns = [f"{domain}_{number}" for number, domain in kept.columns]
    words = kept.index.to_series().str.split(" lr=", expand=True)
    tuned = read_table(HERE / "tuning.csv")
    failed = tuned.groupby("method")["failed"].sum()
    kept = kept.assign(method=words[0], rate=words[1], failed=words[0].map(failed))
    return kept.sort_values("mean_mean", ascending=False)


def print_table(rows: pd.DataFrame) -> None:
    print("| | `lr` | clients | one global model |\n|---|---:|---:|---:|")
    for row in rows.itertuples():
        cells = [f"{row.mean_mean:.1f} ± {row.mean_std:.1f}", f"{row.global_mean:.1f} ± {row.global_std:.1f}"]
        print(f"| `strategy={row.method}` | {row.rate} | {' | '.join(cells)} |")
    failed = rows[rows["failed"] > 0]
    print(f"\n{FAILED}: " + ", ".join(f"{row.method} {row.failed:.0f}" for row in failed.itertuples()))


def draw(rows: pd.DataFrame) -> None:
    places = range(len(rows))
    with picture(HERE / "means.png", 6.5, 8.5) as (axes,):
        for number, (name, label) in enumerate(COLUMNS.items()):
            shift = [place + (0.15 if number else -0.15) for place in places]
            axes.errorbar(
                rows[f"{name}_mean"],
                shift,
                xerr=rows[f"{name}_std"],
                fmt="os"[number],
                markersize=4,
                linewidth=0,
                elinewidth=1,
                color=colour(number),
                label=label,
            )
        axes.set_yticks(list(places), [named_label(method) for method in rows["method"]])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy (%) after 20 rounds, mean and deviation over three seeds")
        legend_below(axes)


if __name__ == "__main__":
    found = means()
    print_table(found)
    draw(found)
