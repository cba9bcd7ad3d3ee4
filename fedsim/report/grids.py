"""Tables of runs by any of their settings: what stands in a row, in a column, and in the cell where they meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fedsim.config.composition import GROUPS, NOT_CHOSEN, compose, load
from fedsim.config.kinds import OF_THE_PLACE
from fedsim.config.listing import paper_name
from fedsim.core.errors import UserError
from fedsim.output.results import Result
from fedsim.report.labels import (
    comparable,
    compared_settings,
    flattened,
    group_by_settings,
    named_label,
    refuse_twins,
    stopped_in,
    written,
)
from fedsim.report.selection import CLIENT, DOMAIN, TOTALS, Selection, best_by

SEED = "seed"
STRATEGY = "strategy"
Values = Mapping[int, float]
TOLD = ("dataset", "split", "model", "strategy", "norm", "rounds", "local_epochs", "batch_size", "lr", "fraction")
"""The settings that a caption names in any case, where all runs agree in them"""
NOT_TOLD = (*OF_THE_PLACE, "evaluate_every", "update_limit", "shots", SEED)
"""Settings that a caption does not name beside those that are not compared"""


@dataclass(frozen=True)
class Grid:
    """A table whose cells hold one value for each seed."""

    selection: Selection
    table: pd.DataFrame
    """One row for each number of each run, as ``tidy`` returns it"""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Values]
    """By row and column; cells without a run are not there"""
    by_setting: bool = False
    """Whether the columns are values of a setting, so that each is a comparison of its own"""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings for the caption, by their names on the command line"""
    seeds: tuple[int, ...] = ()
    best_by: str = ""
    """By which images the best rounds were chosen, in words"""

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns in which rows are compared: all settings, or the total over the other columns."""
        totals = tuple(name for name in self.columns if name in TOTALS)
        return self.columns if self.by_setting or not totals else totals[:1]

    @property
    def words(self) -> str:
        """What is shown, in words."""
        by = self.selection.by
        totals = {None: "", DOMAIN: ", mean over clients", CLIENT: ", mean over clients"}
        over = totals.get(by, ", global model") if self.by_setting else f" by {by}" if by else ""
        return self.selection.words(over, self.best_by)

    def column(self, column: str) -> dict[str, Values]:
        """Return the values of the rows in one column."""
        return {row: self.cells[row, column] for row in self.rows if (row, column) in self.cells}

    def means(self) -> pd.DataFrame:
        """Return the means over seeds, rows × columns; NaN where there is no run."""
        return self._frame({place: pd.Series(values).mean() for place, values in self.cells.items()})

    def deviations(self) -> pd.DataFrame:
        """Return the sample standard deviations over seeds; NaN where there is one run or none."""
        return self._frame({place: pd.Series(values).std() for place, values in self.cells.items()})

    def _frame(self, values: Mapping[tuple[str, str], float]) -> pd.DataFrame:
        table = [[values.get((row, column), float("nan")) for column in self.columns] for row in self.rows]
        return pd.DataFrame(table, index=list(self.rows), columns=list(self.columns))


def tidy(runs: Sequence[Result], selection: Selection, rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return a row for each number of each run: row, column, the settings that make these, seed, round, value, run.

    Values are as in the tables of the runs: accuracies are from 0 to 1.

    Args:
        runs: The runs.
        selection: What is shown of each.
        rows: The settings whose values are the name of the row; none for the label of the runs.
        columns: The settings whose values are the name of the column; none for what the selection is shown by. With
            them, the number of a run is the total over that.

    Raises:
        UserError: If no run has one of the settings, or the selection is not possible.
    """
    settings = {run.run_dir: settings_of(run) for run in runs}
    for key in (*rows, *columns):
        if all(key not in each for each in settings.values()):
            raise UserError(f"{key} is no setting of these runs: choose such as {STRATEGY}, norm, lr or split.alpha.")
    groups = group_by_settings(list(runs))
    labels = {run.run_dir: named_label(label) for label, members in groups.items() for run in members}
    found = []
    for run in runs:
        mine = settings[run.run_dir]
        row = _name(rows, mine) if rows else labels[run.run_dir]
        if rows and not isinstance(selection.round, int) and (stopped := stopped_in(run)):
            row = f"{row} {stopped}"
        values = selection.values(run)
        if columns:
            values = {_name(columns, mine): selection.total(values)}
        keys = {key: written(mine.get(key)) for key in (*rows, *columns) if key != SEED}
        place = {"row": row, **keys, SEED: run.summary[SEED], "round": selection.round_of(run), "run": run.run_dir}
        found += [{**place, "column": column, "value": value} for column, value in values.items()]
    return pd.DataFrame(found)


def grid(runs: Sequence[Result], selection: Selection, rows: Sequence[str], columns: Sequence[str]) -> Grid:
    """Return the table of these runs; the arguments are those of ``tidy``.

    Raises:
        UserError: If the runs of a cell differ in more than the seed, or the rows or columns are not possible.
    """
    rows = rows or ([STRATEGY] if columns else [])
    if STRATEGY in rows and STRATEGY in columns:
        raise UserError(f"--columns={','.join(columns)} is not possible with rows by {STRATEGY}: choose other --rows.")
    table = tidy(runs, selection, rows, columns)
    by_dir = {run.run_dir: run for run in runs}
    for cell, group in table.groupby(["row", "column"] if columns else ["row"], sort=False):
        _refuse_different([by_dir[run] for run in dict.fromkeys(group["run"])], ", ".join(map(str, cell)))
    cells: dict[tuple[str, str], dict[int, float]] = {}
    for (row, column), group in table.groupby(["row", "column"], sort=False):
        cells[str(row), str(column)] = dict(zip(group[SEED], group["value"], strict=True))
    named = list(dict.fromkeys(table["column"]))
    totals = [] if columns else [name for name in TOTALS if name in named]
    return Grid(
        selection,
        table=table,
        rows=tuple(dict.fromkeys(table["row"])),
        columns=tuple([name for name in named if name not in totals] + totals),
        cells=cells,
        by_setting=bool(columns),
        settings=told_settings(runs),
        seeds=tuple(sorted(set(table[SEED]))),
        best_by=best_by(runs),
    )


def _refuse_different(runs: Sequence[Result], cell: str) -> None:
    """Refuse runs of one cell that differ in more than the seed, or that have the same one.

    Raises:
        UserError: If there are any; names a setting.
    """
    settings = [compared_settings(run) for run in runs]
    for key in dict.fromkeys(key for each in settings for key in each):
        values = {comparable(each.get(key)): each.get(key) for each in settings}
        if len(values) > 1 and not key.endswith(NOT_CHOSEN):
            name = key.removesuffix(".name")
            told = " and ".join(f"{name}={written(value)}" for value in values.values())
            raise UserError(
                f"runs with {told} meet in one cell ({cell}): add {name} to --rows or --columns, or give fewer folders."
            )
    refuse_twins(runs, cell)


def settings_of(run: Result) -> dict[str, object]:
    """Return the settings of a run by their names on the command line; that of a group is its choice."""
    config, flat = load(run.run_dir), compared_settings(run)
    names = {key: value["name"] for key, value in config.items() if isinstance(value, dict) and "name" in value}
    named = {key.removesuffix(".name"): value for key, value in flat.items() if key.endswith(".name")}
    return {**flat, **named, **names, SEED: run.summary[SEED]}


def shared_settings(runs: Sequence[Result]) -> dict[str, object]:
    """Return the settings in which all these runs agree."""
    all_of_them = [settings_of(run) for run in runs]
    return {
        key: value
        for key, value in all_of_them[0].items()
        if len({comparable(each.get(key)) for each in all_of_them}) == 1
    }


def told_settings(runs: Sequence[Result]) -> dict[str, object]:
    """Return the settings that all these runs share and a reader needs: ``TOLD``, and those that are no defaults."""
    shared = shared_settings(runs)
    words = [f"{group}={shared[group]}" for group in GROUPS if group in shared]
    try:
        usual = flattened(compose(words))
    except UserError:  # a choice of a newer version, or of a split of several steps
        usual = dict(shared)
    other = [key for key in shared if key in usual and comparable(shared[key]) != comparable(usual[key])]
    return {key: shared[key] for key in (*TOLD, *other) if key in shared and key not in NOT_TOLD}


def _name(keys: Sequence[str], settings: Mapping[str, object]) -> str:
    """Return the name of a row or column: the choice of a group as it is, and any other setting as ``key=value``."""
    parts = []
    for key in keys:
        value = written(settings.get(key))
        if key == STRATEGY:
            value = paper_name(value)
        parts.append(value if key == STRATEGY or f"{key}.name" in settings else f"{key}={value}")
    return " ".join(parts)
