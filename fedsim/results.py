"""Reading run directories back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedsim.errors import UserError

NAMES = ("label", "domain", "split", "class", "shot", "layer", "metric")
"""Columns that hold names."""


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
    in the directory of a run that was made before there was such a table."""
    diagnostics: pd.DataFrame | None = None
    """One row per diagnosed round, layer and metric: round, layer, metric, value; None without ``diagnostics=true``."""


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV table of ours, where a name stays one that pandas would take for a number or for nothing: ``NA``."""
    columns = pd.read_csv(path, encoding="utf-8", nrows=0).columns
    numbers = {name: ["", "nan"] for name in columns if name not in NAMES}
    names = {name: str for name in columns if name in NAMES}
    return pd.read_csv(path, encoding="utf-8", keep_default_na=False, na_values=numbers, dtype=names)


def read_result(run_dir: Path) -> Result:
    return Result(
        run_dir=run_dir,
        clients=read_table(run_dir / "clients.csv"),
        rounds=read_table(run_dir / "rounds.csv"),
        summary=json.loads((run_dir / "summary.json").read_text(encoding="utf-8")),
        classes=_if_there(run_dir / "classes.csv"),
        diagnostics=_if_there(run_dir / "diagnostics.csv"),
    )


def _if_there(table: Path) -> pd.DataFrame | None:
    return read_table(table) if table.exists() else None


def find_runs(folders: list[Path]) -> list[Result]:
    """All runs in or under the folders, in the order of their paths; numbers sort as numbers.

    Errors: ``UserError`` for a folder without a run.
    """
    found: dict[Path, None] = {}  # a run under two of the folders counts once
    for folder in folders:
        summaries = sorted(folder.rglob("summary.json"), key=lambda path: [_natural(part) for part in path.parts])
        if not summaries:
            raise UserError(f"{folder} holds no run: choose a directory with a summary.json in it or below it.")
        found |= dict.fromkeys(path.parent.resolve() for path in summaries)
    return [read_result(run_dir) for run_dir in found]


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)
