"""Two runs side by side: ``python -m fedsim.report --compare A B``.

What differs between them in their settings and in their results, and from which round on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedsim.config.composition import NOT_CHOSEN, load
from fedsim.core.errors import UserError
from fedsim.core.nested import flattened
from fedsim.output.results import Result, find_runs
from fedsim.output.terminal import print_line, print_whole
from fedsim.report.heads import accuracies_by_head, shown_under
from fedsim.report.labels import comparable, written

OF_THE_MACHINE = ("seconds", "device_seconds", "device_peak_mb")
"""Columns of ``rounds.csv`` that differ between two equal runs"""
NO_MATTER = ("out_dir", "resume")
"""Settings in which any two runs differ"""
FAR = 0.01
"""The difference of accuracies that counts as one: a percentage point"""


def print_difference(first: Path, second: Path) -> None:
    """Print in what two runs differ.

    Raises:
        UserError: If one of the folders does not hold exactly one run.
    """
    a, b = _run(first), _run(second)
    settings, numbers, lines = different_settings(a, b), results(a, b), since(a, b)  # before a word is said
    print_line(f"A: {a.run_dir}\nB: {b.run_dir}\n")
    if settings.empty:
        print_line("settings: the same\n")
    else:
        print_whole(_table(settings.reset_index(), ["settings that differ", "A", "B"]))
    print_whole(_table(numbers.reset_index(), ["accuracy (%), last round", "A", "B", "B − A"]))
    for line in lines:
        print_line(line)


def _run(folder: Path) -> Result:
    runs = find_runs([folder])
    if len(runs) > 1:
        raise UserError(f"--compare {folder} holds {len(runs)} runs: choose the directory of one of them.")
    return runs[0]


def different_settings(a: Result, b: Result) -> pd.DataFrame:
    """Return the settings in which two runs differ, as texts in the columns A and B; empty where a run has no such."""
    return differing_settings({"A": a, "B": b})


def differing_settings(runs: Mapping[str, Result]) -> pd.DataFrame:
    """Return the settings in which any of the runs differ, as texts, with a column for each run; empty where a run has
    no such setting."""
    configs = [flattened(load(run.run_dir)) for run in runs.values()]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = {}
    for key in keys:
        if key in NO_MATTER or key.endswith(NOT_CHOSEN):
            continue
        if len({(key in config, comparable(config.get(key, ""))) for config in configs}) > 1:
            rows[key.removesuffix(".name")] = [written(config[key]) if key in config else "" for config in configs]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(runs))


def results(a: Result, b: Result) -> pd.DataFrame:
    """Return the numbers of the last round as texts: A, B and their difference, which is empty where one has none."""
    mine, theirs = (accuracies_by_head(run.summary["final"]) for run in (a, b))
    rows = {}
    for head in dict.fromkeys([*mine, *theirs]):
        values = [each.get(head) for each in (mine, theirs)]
        known = [value for value in values if value is not None]
        difference = shown_under(known[1] - known[0], head) if len(known) == 2 else ""
        sign = "+" if difference and not difference.startswith("-") else ""
        rows[head] = ["" if value is None else shown_under(value, head) for value in values] + [sign + difference]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["A", "B", "B − A"])


def since(a: Result, b: Result) -> list[str]:
    """Return lines on the rounds in which two runs differ: the first with any other number, and the last stretch in
    which the mean accuracy of the clients is more than a point higher in one of them."""
    rows = [run.rounds.set_index("round") for run in (a, b)]
    shared = rows[0].index.intersection(rows[1].index)
    lines = []
    if len(rows[0]) != len(rows[1]):
        lines.append(f"rounds: {rows[0].index.max()} in A and {rows[1].index.max()} in B")
    for which, mine, theirs in (("A", rows[0], rows[1]), ("B", rows[1], rows[0])):
        alone = [str(name) for name in mine.columns.difference(theirs.columns) if mine[name].notna().any()]
        if alone:
            lines.append(f"only {which} has {', '.join(alone)}")
    names = [name for name in rows[0].columns.intersection(rows[1].columns) if name not in OF_THE_MACHINE]
    one, other = (each.loc[shared, names].select_dtypes("number") for each in rows)
    names = list(one.columns.intersection(other.columns))
    differs = (one[names] != other[names]) & ~(one[names].isna() & other[names].isna())
    if not differs.any(axis=None):
        return [*lines, f"the same numbers in all of {len(shared)} rounds (rounds.csv but for its times)"]
    place = int(differs.any(axis=1).to_numpy().argmax())
    columns = [name for name in names if differs[name].iloc[place]]
    name = columns[0]
    more = f", and {len(columns) - 1} other columns" if len(columns) > 1 else ""
    values = f"{one[name].iloc[place]:.6g} and {other[name].iloc[place]:.6g}"
    lines.append(f"the numbers differ from round {shared[place]} on: {name} is {values}{more}")
    return [*lines, _far(other["client_accuracy_mean"] - one["client_accuracy_mean"])]


def _far(difference: pd.Series) -> str:
    """Return the line on where the last stretch begins in which one run is ahead by more than ``FAR``."""
    known = difference.dropna()
    side = np.sign(known).where(known.abs() > FAR, 0)
    if known.empty or side.iloc[-1] == 0:
        return f"the mean accuracy of the clients is within {100 * FAR:g} point in the last round"
    same = (side == side.iloc[-1])[::-1].cummin()[::-1]
    ahead = "B" if side.iloc[-1] > 0 else "A"
    told = f"the mean accuracy of the clients is more than {100 * FAR:g} point higher in {ahead}"
    return f"{told} from round {same.idxmax()} on"


def _table(rows: pd.DataFrame, heads: list[str]) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        shown.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows.itertuples(index=False):
        shown.add_row(*row)
    return shown
