"""Tables grow by rows and columns, go back to a round, and lose nothing but a torn last line."""

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.core.errors import FileError, UserError
from fedsim.output.tables import Table
from tests.conftest import FullDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def test_rows_come_back_in_order(path: Path) -> None:
    table = Table(path)
    table.append([{"round": 0, "name": "a"}, {"round": 0, "name": 'b,"c"'}])
    table.append([{"round": 1, "name": "d"}])
    assert table.read() == [
        {"round": "0", "name": "a"},
        {"round": "0", "name": 'b,"c"'},
        {"round": "1", "name": "d"},
    ]
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == ["round", "name"]


def test_a_table_that_is_not_there_is_empty(path: Path) -> None:
    assert Table(path).read() == []
    Table(path).go_back_to(3)
    assert not path.exists()


def test_appending_does_not_rewrite_what_is_there(path: Path) -> None:
    table = Table(path)
    table.append([{"round": 0, "x": 1}])
    before, inode = path.read_bytes(), path.stat().st_ino
    table.append([{"round": 1, "x": 2}])
    assert path.read_bytes().startswith(before)
    assert path.stat().st_ino == inode


def test_new_columns_may_come_at_any_round(path: Path) -> None:
    table = Table(path)
    table.append([{"round": 0, "x": 1}])
    table.append([{"round": 1, "y": 2.5}, {"round": 1, "z": 3, "x": 4}])
    table.append([{"round": 2}])
    assert table.columns == ["round", "x", "y", "z"]
    assert [tuple(row.values()) for row in table.read()] == [
        ("0", "1", "", ""),
        ("1", "", "2.5", ""),
        ("1", "4", "", "3"),
        ("2", "", "", ""),
    ]


def test_nothing_is_written_as_an_empty_cell(path: Path) -> None:
    table = Table(path)
    table.append([{"round": 0, "x": None}])
    assert table.read() == [{"round": "0", "x": ""}]


def test_floats_come_back_exactly(path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, math.inf, 123456789.123456789, 2.0]
    numbers += np.random.default_rng(0).standard_normal(50).tolist()
    table = Table(path)
    table.append({"round": number, "x": value} for number, value in enumerate(numbers))
    table.go_back_to(len(numbers))  # written a second time
    assert [float(row["x"]).hex() for row in table.read()] == [value.hex() for value in numbers]


def test_numpys_floats_are_written_as_numbers(path: Path) -> None:
    table = Table(path)
    table.append([{"round": 0, "x": np.float64(1 / 3), "n": np.int64(7)}])
    assert table.read() == [{"round": "0", "x": repr(1 / 3), "n": "7"}]


def test_later_rounds_are_forgotten(path: Path) -> None:
    table = Table(path)
    table.append({"round": number, "x": number**2} for number in (0, 1, 2, 10))
    table.go_back_to(2)
    assert [row["round"] for row in table.read()] == ["0", "1", "2"]
    table.append([{"round": 3, "x": 9}])
    assert table.read()[-1] == {"round": "3", "x": "9"}


def test_round_minus_one_leaves_nothing_but_the_columns(path: Path) -> None:
    Table(path).append([{"round": 0, "x": 1}])
    table = Table(path)
    table.go_back_to(-1)
    assert table.read() == []
    assert table.columns == ["round", "x"]


def test_another_process_goes_on_with_the_columns_of_the_file(path: Path) -> None:
    Table(path).append([{"round": 0, "x": 1, "y": 2}])
    resumed = Table(path)
    resumed.go_back_to(0)
    resumed.append([{"y": 4, "round": 1, "w": 5}])
    assert [tuple(row.values()) for row in resumed.read()] == [("0", "1", "2", ""), ("1", "", "4", "5")]
    assert resumed.columns == ["round", "x", "y", "w"]


@pytest.mark.parametrize(
    "torn",
    [
        *["", "12,", "12,0.5,0.", "12"],
        "1",
    ],
)
def test_a_torn_last_line_is_dropped(path: Path, torn: str) -> None:
    table = Table(path)
    table.append({"round": number, "x": 0.5, "y": 0.25} for number in range(12))
    complete = table.read()
    with path.open("a", newline="") as file:
        file.write(torn)  # of a row of round 12
    table = Table(path)
    table.go_back_to(11)
    assert table.read() == complete
    table.append([{"round": 12, "x": 1}])
    assert table.read() == [*complete, {"round": "12", "x": "1", "y": ""}]


CELLS = ("two\nlines", "carriage\rreturn", "line\u2028separator", "next\x85line", 'quote", comma', "é", "", "NA", "007")


def test_what_is_in_a_cell_does_not_divide_rows(path: Path) -> None:
    table = Table(path)
    table.append({"round": number, "name": cell, "x": 0.5} for number, cell in enumerate(CELLS))
    table = Table(path)
    table.go_back_to(len(CELLS) - 2)
    assert [row["name"] for row in table.read()] == list(CELLS[:-1])


@pytest.mark.parametrize("torn", ['9,"two\n', '9,"two\nlines"', "9,x,0.5\r"])
def test_a_row_cut_short_inside_a_cell_is_dropped(path: Path, torn: str) -> None:
    table = Table(path)
    table.append({"round": number, "name": cell, "x": 0.5} for number, cell in enumerate(CELLS))
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(torn)
    table = Table(path)
    table.go_back_to(100)
    assert [row["name"] for row in table.read()] == list(CELLS)


def test_a_row_cut_short_inside_a_letter_is_dropped(path: Path) -> None:
    Table(path).append([{"round": 0, "name": "é"}])
    path.write_bytes(path.read_bytes() + "1,é".encode()[:-1])
    table = Table(path)
    table.go_back_to(100)
    assert table.read() == [{"round": "0", "name": "é"}]


@pytest.mark.parametrize(
    "content", [b"round,x\n0,1\n1\n2,3\n", b"round,x\n0,1,2\n", b"round,x\na,1\n", b"x\n1\n", b"\xff\n"]
)
def test_a_table_of_other_content_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path} cannot be read \(.+\)\.$"):
        Table(path).go_back_to(3)
    assert path.read_bytes() == content


def test_rows_for_which_the_disk_has_no_space_are_not_there_in_part(path: Path, full_disk: FullDisk) -> None:
    table = Table(path)
    table.append([{"round": 0, "x": "a" * 50}])
    before = path.read_bytes()
    with full_disk(len(before) + 80), pytest.raises(FileError, match=rf"^{path} cannot be written \(File too large\)$"):
        table.append([{"round": 1, "x": "b" * 50}, {"round": 1, "x": "c" * 50}])
    assert path.read_bytes() == before
    table.append([{"round": 1, "x": "d"}])
    assert [row["x"] for row in table.read()] == ["a" * 50, "d"]
    assert table.length == 2


def test_rows_are_flushed_to_the_disk_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that survives a power cut needs the rows before it."""
    synced: list[int] = []
    table = Table(path)
    table.append([{"round": 0}])
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    for _ in range(2):
        table.flush()
    table.append([{"round": 1}])
    table.flush()
    assert synced == [len("round\r\n0\r\n"), len("round\r\n0\r\n1\r\n")]


def test_without_rows_nothing_is_written(path: Path) -> None:
    table = Table(path)
    table.append([])
    assert not path.exists()
    table.append([{"round": 0, "x": 1}])
    before = path.read_bytes()
    table.append([])
    assert path.read_bytes() == before


def test_rows_are_one_block_in_which_no_kill_cuts_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(path)
    table.append([{"round": 0, "value": 0.5}])
    blocks: list[bytes] = []
    opened = Path.open

    class Noting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Noting":
            return self

        def __exit__(self, *exc: object) -> None:
            self.file.close()

        def write(self, block: memoryview) -> int:
            blocks.append(bytes(block))
            return int(self.file.write(block))

    monkeypatch.setattr(Path, "open", lambda self, *how, **options: Noting(opened(self, *how, **options)))
    rows = [{"round": number, "value": number / 7} for number in range(1, 2000)]
    table.append(rows)
    monkeypatch.undo()
    assert len(blocks) == 1
    assert len(blocks[0]) > 16_000  # more than a buffer
    assert len(table.read()) == 2000
