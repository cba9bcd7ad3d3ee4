"""Ends against ends by hand, on a clock of the test."""

from datetime import datetime

import pytest

from fedsim.output.forecast import Forecast, in_words, left_in_words


def test_the_end_follows_from_the_mean_of_the_parts_so_far_and_comes_nearer() -> None:
    now = 100.0
    forecast = Forecast(lambda: now)
    forecast.reached(1, 10)  # not begun
    assert forecast.left() is None
    forecast.begin()
    now = 106.0
    forecast.begin()  # changes nothing
    forecast.reached(1.5, 10)
    assert forecast.left() == 34.0  # 6 s for 1.5 parts, and 8.5 remain
    now = 110.0
    assert forecast.left() == 30.0
    now = 200.0
    assert forecast.left() == 0.0
    forecast.reached(11, 10)
    assert forecast.left() == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0.2, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199 - 60, "119 min"), (7200, "2 h 0 min")],
        *[(5 * 3600 + 20 * 60 + 29, "5 h 20 min"), (48 * 3600, "2 days"), (1e12, "11574074 days")],
    ],
)
def test_durations_are_as_exact_as_their_size_asks_for(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        *[(60, "21:15"), (3 * 3600, "Mon 00:14"), (5 * 86400, "Fri 21:14"), (6 * 86400, "2026-12-05")],
        (1e300, "2058-08-07"),
    ],
)
def test_the_end_has_the_day_where_it_is_another_one(seconds: float, ends: str) -> None:
    assert left_in_words(seconds, datetime(2026, 11, 29, 21, 14)).endswith(f" left, ends {ends}")
