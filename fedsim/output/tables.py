"""CSV files that grow by rows, survive a kill and a full disk, and can go back to an earlier round."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedsim.core.files import reading, sync_file, write_atomically, writing


class Table:
    """An append-only CSV file with a ``round`` column.

    If a row has a new column, the file is rewritten with that column, so a method may add numbers in any round. Floats
    are written with all digits, so that reading returns the same float.

    Args:
        path: The file.
        needed: Columns without which it is not gone on with.
    """

    def __init__(self, path: Path, needed: Sequence[str] = ()) -> None:
        self.path = path
        self._needed = needed
        self.columns: list[str] = []
        self.length = 0
        """Number of rows that this object has written, or left when it went back to a round"""
        self._unflushed = False

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows at the end, all of them or none; without a row there is no file yet.

        Raises:
            FileError: If they cannot be written.
        """
        rows = list(rows)
        if not rows:
            return
        new = [name for row in rows for name in row if name not in self.columns]
        if new:
            self.columns += dict.fromkeys(new)
            self._rewrite(self.read())
        with writing(self.path):
            before = self.path.stat().st_size if self.path.exists() else 0
            try:
                self._write_at_once(rows)
            except BaseException:
                with suppress(OSError):  # the first error is the one to report
                    os.truncate(self.path, before)
                raise
        self.length += len(rows)
        self._unflushed = True

    def _write_at_once(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows as one block, within which a kill hardly ever comes, nor a report made meanwhile."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerows(rows)
        left = memoryview(text.getvalue().encode())
        with self.path.open("ab", buffering=0) as file:
            while left:
                left = left[file.write(left) :]

    def flush(self) -> None:
        """Flush the rows to the disk, so that they survive a power cut.

        Raises:
            FileError: If that fails.
        """
        if self._unflushed:
            sync_file(self.path)
            self._unflushed = False

    def read(self) -> list[dict[str, str]]:
        """Return the rows; none where there is no table yet.

        Raises:
            UserError: If the file is damaged or not such a table.
        """
        with reading(self.path):
            return _parsed(self._text())

    def go_back_to(self, round: int) -> None:
        """Drop the rows of later rounds, and a last line that a kill cut short.

        With ``round=-1`` no rows are left.

        Raises:
            UserError: If the file is damaged or not such a table.
            FileError: If it cannot be written.
        """
        self.keep(self.until(round))

    def until(self, round: int) -> list[dict[str, str]]:
        """Return the rows up to a round, without a last line that a kill cut short; none where there is no table.

        Columns that only later rows have values in are dropped.

        Raises:
            UserError: If the file is damaged or not such a table.
        """
        with reading(self.path):
            whole = self._text(whole_lines=True)
            self.columns = next(csv.reader(io.StringIO(whole, newline="")), [])
            for name in self._needed if self.columns else ():
                if name not in self.columns:
                    raise ValueError(f"it has no {name!r}")
            rows = _parsed(whole, last_may_be_cut=True)
            kept = [row for row in rows if int(row["round"]) <= round]
            while kept and _only_later(self.columns[-1], rows, kept):
                unknown = self.columns.pop()
                for row in kept:
                    del row[unknown]
            return kept

    def keep(self, rows: list[dict[str, str]]) -> None:
        """Rewrite the table with these of its rows only.

        Raises:
            FileError: If the table cannot be written.
        """
        self.length = len(rows)
        if self.path.exists():
            self._rewrite(rows)

    def _text(self, *, whole_lines: bool = False) -> str:
        """Return the text of the file; empty where there is no table.

        With ``whole_lines`` it is cut after the last end of a line, since a kill may have cut a UTF-8 character.
        """
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
    """Return whether only rows that are dropped have values in a column, such as the fault of a client."""
    return any(row[column] for row in rows) and not any(row[column] for row in kept)


def _parsed(text: str, *, last_may_be_cut: bool = False) -> list[dict[str, str]]:
    """Parse the text of a table.

    Args:
        text: The text.
        last_may_be_cut: Whether to drop a last row with too few cells: a kill may have cut it after the end of a line
            inside one of its cells.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if last_may_be_cut and rows and None in rows[-1].values():
        rows.pop()
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many cells as there are columns")
    return rows
