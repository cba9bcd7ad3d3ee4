"""CSV files that grow by rows, survive a kill and a full disk, and can go back to an earlier round."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedsim.core.files import reading, write_atomically, writing


class Table:
    """An append-only CSV file with a ``round`` column.

    A row with a new column makes the file be written anew with that column, so a method may add numbers at any round.
    Floats are written so that reading them gives the same float back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.length = 0
        """Rows that this object has written or kept"""

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows at the end, all of them or none.

        Raises: ``FileError`` if they cannot be written.
        """
        rows = list(rows)
        new = [name for row in rows for name in row if name not in self.columns]
        if new:
            self.columns += dict.fromkeys(new)
            self._rewrite(self.read())
        with writing(self.path):
            before = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self.columns).writerows(rows)
            except BaseException:
                with suppress(OSError):  # what went wrong before is what has to be said
                    os.truncate(self.path, before)
                raise
        self.length += len(rows)

    def read(self) -> list[dict[str, str]]:
        """Return the rows; none where there is no table yet.

        Raises: ``UserError`` for a file that is none of ours, or no longer.
        """
        with reading(self.path):
            return _parsed(self._text())

    def go_back_to(self, round: int) -> None:
        """Drop the rows of later rounds, and a last line that a kill cut short.

        With ``round=-1`` nothing is left.

        Raises: as ``until`` and ``keep``.
        """
        self.keep(self.until(round))

    def until(self, round: int) -> list[dict[str, str]]:
        """Return the rows up to a round, without a last line that a kill cut short; none where there is no table.

        Raises: ``UserError`` for a file that is none of ours, or no longer.
        """
        with reading(self.path):
            whole = self._text(whole_lines=True)
            self.columns = next(csv.reader(io.StringIO(whole, newline="")), [])
            rows = _parsed(whole, last_may_be_cut=True)
            kept = [row for row in rows if int(row["round"]) <= round]
            while kept and _only_later(self.columns[-1], rows, kept):
                unknown = self.columns.pop()
                for row in kept:
                    del row[unknown]
            return kept

    def keep(self, rows: list[dict[str, str]]) -> None:
        """Leave these of its rows alone.

        Raises: ``FileError`` if the table cannot be written.
        """
        self.length = len(rows)
        if self.path.exists():
            self._rewrite(rows)

    def _text(self, *, whole_lines: bool = False) -> str:
        """Nothing where there is no table; ``whole_lines`` ends with the last line's end, since a letter may be cut."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ""
        return content[: content.rfind(b"\n") + 1 if whole_lines else None].decode()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.path, write)


def _only_later(column: str, rows: list[dict[str, str]], kept: list[dict[str, str]]) -> bool:
    """Whether a column has come with rows that are not kept, such as who failed there."""
    return any(row[column] for row in rows) and not any(row[column] for row in kept)


def _parsed(text: str, *, last_may_be_cut: bool = False) -> list[dict[str, str]]:
    """Raises: ``ValueError`` for a row that has more or fewer cells than there are columns.

    But for the last, if it ``may_be_cut`` behind a line's end that stands in one of its cells: then it is left out.
    """
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if last_may_be_cut and rows and None in rows[-1].values():
        rows.pop()
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many cells as there are columns")
    return rows
