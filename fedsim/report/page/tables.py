"""The tables of a page, whose rows a click on a column's head sorts; everything of users is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

MOST_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """A text, and the number by which its column is sorted; without one the text decides."""

    text: str
    value: float | None = None


def html_table(corner: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Return a table; names are isolated with ``bdi``, since they may be written from right to left."""
    shown = rows[:MOST_ROWS]
    names = "".join(_head(name) for name in (corner, *heads))
    body = "\n".join(
        f'<tr><th scope="row"><bdi>{escape(name)}</bdi></th>{"".join(map(_cell, cells))}</tr>' for name, cells in shown
    )
    more = f"<p>{len(rows) - len(shown)} more rows are not shown.</p>" if len(rows) > len(shown) else ""
    head = f"<thead><tr>{names}</tr></thead>"
    return f'<div class="wide"><table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table></div>{more}'


def of_texts(corner: str, table: pd.DataFrame) -> str:
    """Return a table of texts, sorted as numbers where they begin with one."""
    rows = [
        (str(name), [Cell(str(text), leading_number(text)) for text in row])
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return html_table(corner, [str(name) for name in table.columns], rows)


def leading_number(text: Any) -> float | None:
    """Return the number with which a cell such as ``81.2 ± 0.4`` begins."""
    try:
        return float(str(text).partition(" ")[0].replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None


def _head(name: str) -> str:
    return f'<th scope="col" aria-sort="none"><button type="button"><bdi>{escape(name)}</bdi></button></th>'


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{value}>{escape(cell.text)}</td>"
