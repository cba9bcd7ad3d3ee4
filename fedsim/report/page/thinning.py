"""What of a large run a page holds: rounds that are left out, and clients and rounds that are drawn as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

MOST_CELLS = 30_000
"""Cells of the heat maps of one kind on a page, over all methods."""
MOST_ROWS = 120
MOST_POINTS = 12_000
"""Rows of one kind of curve on a page, over all runs."""
FEWEST_ROUNDS = 6
"""Rounds that a curve keeps in any case."""
FEWEST_COLUMNS = 20
"""Columns that a heat map keeps in any case; it has fewer rows then."""
TOLD = "told"
"""Under this name a table remembers, in its ``attrs``, what the page says of how it was thinned out."""


def every_few(rounds: pd.Series, most: int) -> pd.Series:
    """Return which rounds are kept where at most so many may be: evenly spaced ones, with the first and the last."""
    there = np.sort(rounds.unique())
    if len(there) <= most:
        return pd.Series(True, index=rounds.index)
    places = np.unique(np.linspace(0, len(there) - 1, max(2, most)).round().astype(int))
    return rounds.isin(there[places])


def thinned(table: pd.DataFrame, column: str, most: int, what: str) -> pd.DataFrame:
    """Return the rows of at most so many values of a column, such as rounds; the table remembers what to say of it."""
    kept = table[every_few(table[column], most)].reset_index(drop=True)
    there, drawn = table[column].nunique(), kept[column].nunique()
    if drawn < there:
        kept.attrs[TOLD] = f"{drawn} of {there} {what} are drawn."
    return kept


def rounds_per_curve(curves: int) -> int:
    """Return how many rounds each of so many curves may have."""
    return max(FEWEST_ROUNDS, MOST_POINTS // max(1, curves))


@dataclass(frozen=True)
class Bins:
    """Neighbouring rows and columns of a heat map that are drawn as one cell, with their mean."""

    rows: int
    columns: int

    @classmethod
    def of_all(cls, tables: Sequence[pd.DataFrame]) -> Self:
        """Return the smallest bins with which heat maps of all these tables fit on a page."""
        rows, columns = (max(table.shape[axis] for table in tables) for axis in (0, 1))
        cells = MOST_CELLS // len(tables)
        shown = max(1, min(rows, MOST_ROWS, cells // min(FEWEST_COLUMNS, max(1, columns))))
        most = max(1, cells // shown)
        return cls(max(1, -(-rows // shown)), max(1, -(-columns // most)))

    @property
    def plain(self) -> bool:
        """Whether each cell is one row and column."""
        return self.rows == self.columns == 1

    def mean(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the means over the bins of a table of numbers; each bin is called as its first row and column.

        Values that are missing count neither way.
        """
        if self.plain:
            return table
        rows, columns = np.arange(len(table)) // self.rows, np.arange(table.shape[1]) // self.columns
        values = table.to_numpy(dtype=float)
        known = ~np.isnan(values)
        shape = (rows[-1] + 1, columns[-1] + 1)
        place = np.ravel_multi_index((rows[:, None], columns[None, :]), shape)
        sums = np.bincount(place[known], values[known], minlength=shape[0] * shape[1])
        counts = np.bincount(place[known], minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore"):
            means = (sums / counts).reshape(shape)
        return pd.DataFrame(means, index=table.index[:: self.rows], columns=table.columns[:: self.columns])


def named_bins(names: pd.Index, size: int) -> list[str]:
    """Return names of bins: ``4`` for one row, ``4–7`` for several."""
    firsts, lasts = names[::size], names[size - 1 :: size]
    if len(lasts) < len(firsts):
        lasts = lasts.append(names[-1:])
    return [
        str(first) if first == last else f"{first}\N{EN DASH}{last}" for first, last in zip(firsts, lasts, strict=True)
    ]
