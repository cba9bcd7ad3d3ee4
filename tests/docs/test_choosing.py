"""``docs/choosing.md`` says only what the files that it quotes say."""

import re

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "choosing.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "](../results/" in line]
NUMBER = re.compile(r"\d+\.\d+(?: ± \d+\.\d+)?")
SETTINGS = re.compile(r"`[^`]*`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.split("|")[1].strip()))
def test_every_number_stands_in_the_file_that_the_row_quotes(row: str) -> None:
    *_, measured, where, _ = row.split("|")
    (quoted,) = re.findall(r"\]\(([^)]+)\)", where)
    file = (PAGE.parent / quoted).read_text(encoding="utf-8")
    numbers = NUMBER.findall(SETTINGS.sub("", measured))
    assert numbers or "quarter" in measured
    assert not [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", file)]


def test_the_other_numbers_stand_in_a_file() -> None:
    quoted = set(re.findall(r"\]\((\.\./results/[^)]+)\)", TEXT))
    files = "\n".join((PAGE.parent / name).read_text(encoding="utf-8") for name in quoted if name.endswith(".md"))
    prose = SETTINGS.sub("", "\n".join(line for line in TEXT.splitlines() if line not in ROWS))
    numbers = NUMBER.findall(re.sub(r"```.*?```", "", prose, flags=re.DOTALL))
    assert len(numbers) > 5
    assert not [number for number in numbers if number not in files]
