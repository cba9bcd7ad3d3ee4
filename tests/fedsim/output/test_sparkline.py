"""Bars against bars that were counted by hand."""

import pytest

from fedsim.output.sparkline import ASCII_BARS, BARS, sparkline


def test_the_lowest_and_the_highest_are_the_first_and_the_last_bar() -> None:
    assert sparkline([0.2, 0.9, 0.6, 0.3], 10) == "▁█▅▂"  # steps of 0.1: 0, 7, 4, 1
    assert sparkline([0.2, 0.9, 0.6, 0.3], 10, ascii_only=True) == ".@+:"
    assert len(BARS) == len(ASCII_BARS) == 8


def test_where_there_are_more_accuracies_than_bars_successive_ones_are_averaged() -> None:
    # Means 0.1, 0.4, 0.8 of 2, 2 and 3 accuracies.
    assert sparkline([0.0, 0.2, 0.4, 0.4, 0.7, 0.8, 0.9], 3) == "▁▄█"
    assert len(sparkline([n / 1000 for n in range(1000)], 60)) == 60


@pytest.mark.parametrize(
    ("accuracies", "width", "expected"),
    [
        ([], 5, ""),
        ([0.5], 0, ""),
        ([0.5], -3, ""),
        ([0.5, 0.5], 5, "▁▁"),
        ([0.1, float("nan"), 0.8], 5, "▁ █"),
        ([float("inf"), 1e300, -1.0], 5, "   "),
    ],
)
def test_whatever_is_given_there_is_a_line(accuracies: list[float], width: int, expected: str) -> None:
    assert sparkline(accuracies, width) == expected
