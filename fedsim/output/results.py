"""Reading run directories back."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from fedsim.core.errors import UserError
from fedsim.core.files import reading, why
from fedsim.core.run_files import SUMMARY
from fedsim.metrics.round_metrics import CLIENT_MEAN
from fedsim.output.federation_table import FILE as FEDERATION
from fedsim.output.provenance import FILE as PROVENANCE

log = logging.getLogger(__name__)

DOMAINS, UNSEEN = "client_domain_accuracy", "unseen_accuracy"
NAMES = ("label", "domain", "split", "class", "shot", "layer", "metric", "outcome")
"""Columns that hold names."""
BY_DOMAIN = ("domain_", "unseen_")
"""Parts of the names of numbers that a summary has by domain"""
FAULT = "fault"
"""The column that holds sentences; all others hold numbers"""


NEEDED = {
    "clients.csv": ("round", "client", "domain", "split", "accuracy"),
    "rounds.csv": ("round", CLIENT_MEAN),
    "classes.csv": ("round", "class"),
    "diagnostics.csv": ("round", "layer", "metric", "value"),
    "participation.csv": ("round", "client", "outcome"),
    FEDERATION: ("client", "domain"),
}
"""The columns that each table of a run has"""


@dataclass(frozen=True)
class Result:
    """A run, finished or not, as tables."""

    run_dir: Path
    clients: pd.DataFrame
    """One row per evaluated round and client: round, client, domain, split, num_examples, loss, accuracy."""
    rounds: pd.DataFrame
    """One row per round; cells are empty for rounds that were not evaluated."""
    summary: Mapping[str, Any]
    classes: pd.DataFrame | None = None
    """One row per evaluated round and class: round, class, train_images, shot, num_examples, accuracy, and more; None
    for runs of versions that did not write this table."""
    diagnostics: pd.DataFrame | None = None
    """One row per diagnosed round, layer and metric: round, layer, metric, value; None without ``diagnostics=true``."""
    participation: pd.DataFrame | None = None
    """One row per round and client that was asked: round, client, images, seconds, outcome; None without faults."""
    federation: pd.DataFrame | None = None
    """One row per client: client, domain, and its training images of each class; None where devices hold the images."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV table of a run; texts such as ``NA`` or ``7`` in columns of names stay texts.

    Raises:
        ValueError: If the last line is cut off, among other errors of pandas.
    """
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError("its last line is cut off")
    columns = pd.read_csv(path, encoding="utf-8", nrows=0).columns
    numbers = {name: ["", "nan"] for name in columns if name not in NAMES}
    names = {name: str for name in columns if name in NAMES}
    return pd.read_csv(path, encoding="utf-8", keep_default_na=False, na_values=numbers, dtype=names)


def read_result(run_dir: Path) -> Result:
    """Read a run directory.

    Raises:
        UserError: If a file is missing, damaged or not of a run; names it.
    """
    return Result(
        run_dir=run_dir,
        clients=_filled(run_dir / "clients.csv"),
        rounds=_filled(run_dir / "rounds.csv", once=("round",)),
        summary=read_summary(run_dir / SUMMARY),
        classes=_if_there(run_dir / "classes.csv", once=("round", "class")),
        diagnostics=_if_there(run_dir / "diagnostics.csv"),
        participation=_if_there(run_dir / "participation.csv"),
        federation=_if_there(run_dir / FEDERATION, once=("client",)),
    )


def read_summary(path: Path) -> dict[str, Any]:
    """Read ``summary.json``.

    Raises:
        UserError: If the file is missing, damaged or not of a run.
    """
    with reading(path):
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("strategy", "dataset"):
            if not isinstance(summary[name], str):
                raise ValueError(f"its {name} is {summary[name]!r} and no text")
        numbers = {name: summary[name] for name in ("seed", "rounds")}
        for name in ("final", "best"):
            row = summary[name]
            numbers |= {f"{name}.{metric}": row[metric] for metric in ("round", CLIENT_MEAN)}
            if not all(isinstance(row.get(metric, {}), Mapping) for metric in (DOMAINS, UNSEEN)):
                raise ValueError(f"its {name} does not have accuracies by domain")
            row[DOMAINS]
            numbers |= dict(_leaves(row, f"{name}."))
        for name, value in numbers.items():
            if not isinstance(value, int | float):
                raise ValueError(f"its {name} is {value!r} and no number")
        return summary


def _leaves(row: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a row by their dotted names, also those by domain, which are one level below."""
    for name, value in row.items():
        if isinstance(value, Mapping) and any(part in name for part in BY_DOMAIN):
            yield from ((f"{above}{name}.{domain}", each) for domain, each in value.items())
        else:
            yield f"{above}{name}", value


def _table(path: Path, once: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table that has its columns, and in those of ``once`` no row twice.

    Raises:
        UserError: If it is not there or damaged.
    """
    with reading(path):
        table = read_table(path)
        for name in NEEDED[path.name]:
            table[name]
        for name in table.columns.difference([*NAMES, FAULT]):
            if len(table) and not is_numeric_dtype(table[name]):
                raise ValueError(f"its column {name} does not hold numbers alone")
        if "round" in NEEDED[path.name] and not (table["round"] % 1 == 0).all():
            raise ValueError("a round of it is no whole number")
        if once and (again := table.duplicated(list(once))).any():
            raise ValueError(f"its row {int(again.to_numpy().argmax()) + 1} is there twice")
        return table


def _filled(path: Path, once: Sequence[str] = ()) -> pd.DataFrame:
    """Read such a table, which has rows.

    Raises:
        UserError: If it has none, is not there or damaged.
    """
    table = _table(path, once)
    with reading(path):
        if table.empty:
            raise ValueError("it has no rows")
    return table


def _if_there(path: Path, once: Sequence[str] = ()) -> pd.DataFrame | None:
    return _table(path, once) if os.path.lexists(path) else None


def find_runs(folders: list[Path], besides: Path | None = None) -> list[Result]:
    """Return all runs in or under the folders, in the order of their paths; numbers in paths sort as numbers.

    Runs below the folder ``besides`` are left out, unread.

    Runs that were stopped before their first evaluation, and summaries of other programs, are left out with a warning.

    Raises:
        UserError: If a folder has no run or cannot be read, or a run is damaged.
    """
    found: dict[Path, None] = {}  # a run under two of the folders counts once
    for folder in folders:
        run_dirs = sorted(_run_dirs(folder), key=lambda path: [_natural(part) for part in path.parts])
        if not run_dirs:
            raise UserError(f"{folder} holds no run: choose a directory with a {SUMMARY} in it or below it.")
        with reading(folder):
            found |= dict.fromkeys(path.resolve() for path in run_dirs)
    left_out = None if besides is None else besides.resolve()
    return [read_result(run_dir) for run_dir in found if left_out not in run_dir.parents]


def _run_dirs(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # those were deleted during the search
            raise UserError(f"{error.filename} cannot be read ({why(error)}).") from error

    for name, _, files in os.walk(folder, onerror=refuse):
        if SUMMARY in files and "config.yaml" in files:
            yield Path(name)
        elif SUMMARY in files:
            log.warning("%s is left out: it has no config.yaml beside it, as a run has", Path(name, SUMMARY))
        elif PROVENANCE in files:
            log.warning("%s is left out: it was stopped before its first evaluation", name)


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)
