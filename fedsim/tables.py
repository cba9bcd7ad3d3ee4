"""CSV files that grow by rows, survive a kill, and can go back to an earlier round."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedsim.files import write_atomically


class Table:
    """An append-only CSV file with a ``round`` column.

    A row with a new column makes the file be written anew with that column, so a method may add numbers at any round.
    Floats are written so that reading them gives the same float back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        rows = list(rows)
        new = [name for row in rows for name in row if name not in self.columns]
        if new:
            self.columns += dict.fromkeys(new)
            self._rewrite(self.read())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerows(rows)

    def read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def go_back_to(self, round: int) -> None:
        """Drops the rows of later rounds, and a last line that a kill cut short.

        With ``round=-1`` nothing is left.
        """
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:  # the cut may be inside a letter
            text = file.read()
        # Not line by line: a cell may hold line breaks, which stand in quotes.
        self.columns, *lines = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
        if lines and (not text.endswith("\n") or len(lines[-1]) < len(self.columns)):
            lines.pop()
        rows = [dict(zip(self.columns, line, strict=True)) for line in lines]
        kept = [row for row in rows if int(row["round"]) <= round]
        while kept and any(row[self.columns[-1]] for row in rows) and not any(row[self.columns[-1]] for row in kept):
            unknown = self.columns.pop()  # a column of later rounds, such as who failed there
            for row in rows:
                del row[unknown]
        self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.path, write)
