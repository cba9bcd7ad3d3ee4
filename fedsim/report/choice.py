"""The settings of each method that a sweep's validation images choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedsim.core.errors import UserError
from fedsim.output.results import Result

DIGITS = 9
"""Digits behind the point to which accuracies are compared"""


@dataclass(frozen=True)
class Budget:
    """The size of the search for the settings of a method."""

    points: int
    seeds: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.points} settings × {self.seeds} seeds × {self.rounds} rounds"


@dataclass(frozen=True)
class Choice:
    """The settings of one method that were chosen by validation."""

    method: str
    values: Mapping[str, Any]
    """The chosen values by tuned key"""
    validation: float
    deviation: float
    budget: Budget
    edges: tuple[str, ...]
    """The tuned keys whose chosen value is the smallest or the largest that was tried"""
    run: Result
    """One run with the chosen values, for all other settings"""

    @property
    def written(self) -> str:
        return point(list(self.values), list(self.values.values()))


def choose(table: pd.DataFrame, keys: Sequence[str]) -> list[Choice]:
    """Return for each method the settings with the highest mean validation accuracy, of equal ones the smaller.

    Raises:
        UserError: If a setting lacks a seed that another one of the method has, every run of a method has failed, or
            the budgets differ.
    """
    choices = [_choice(str(method), rows, keys) for method, rows in table.groupby("method", sort=False)]
    budgets = {str(each.budget): each.method for each in choices}
    if len(budgets) > 1:
        told = "; ".join(f"{method} has had {budget}" for budget, method in budgets.items())
        raise UserError(f"methods can only be compared at equal budgets, and {told}: run what is missing.")
    return choices


def _choice(method: str, rows: pd.DataFrame, keys: Sequence[str]) -> Choice:
    seeds = sorted(set(rows["seed"]))
    points: dict[tuple[Any, ...], pd.DataFrame] = {}
    for values in sorted({tuple(row) for row in rows[list(keys)].itertuples(index=False)}, key=_ascending):
        mine = rows[(rows[list(keys)].astype(object).apply(tuple, axis=1) == values)]
        if sorted(mine["seed"]) != seeds:
            raise UserError(
                f"{method} {point(keys, values)} was run with seeds {sorted(mine['seed'])}, and other settings of it "
                f"with {seeds}: run each setting once with each seed."
            )
        points[values] = mine
    # The first of equals, which the last digits of a mean over clients may tell apart.
    best = max(points, key=lambda values: round(float(points[values]["validation"].mean()), DIGITS))
    if points[best]["failed"].all():
        raise UserError(
            f"{method} has failed at every setting that was tried: try others, such as a smaller lr, or give fewer "
            "folders."
        )
    accuracy = points[best]["validation"]
    edges = tuple(
        key
        for place, key in enumerate(keys)
        if len(tried := sorted({values[place] for values in points}, key=lambda value: _ascending((value,)))) > 1
        and best[place] in (tried[0], tried[-1])
        and _is_number(best[place])
    )
    return Choice(
        method,
        dict(zip(keys, best, strict=True)),
        float(accuracy.mean()),
        float(accuracy.std()),
        Budget(len(points), len(seeds), int(rows["rounds"].max())),
        edges,
        points[best]["run"].iloc[0],
    )


def _ascending(values: tuple[Any, ...]) -> tuple[tuple[float, str], ...]:
    """Return a sort key: numbers by size, and other values, such as null for no clipping, after them."""
    return tuple((float(value), "") if _is_number(value) else (np.inf, str(value)) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def point(keys: Sequence[str], values: Sequence[Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
