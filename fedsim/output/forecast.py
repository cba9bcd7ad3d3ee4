"""When a run or a sweep will have ended, by what it has done so far."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

FARTHEST = 1e9
"""Seconds; whatever takes longer has no date that a calendar is sure to have."""


class Forecast:
    """The end of something that consists of equal parts, by the mean duration of the parts that are done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._end: float | None = None

    def begin(self) -> None:
        """Note that the first part begins; later calls change nothing."""
        if self._began is None:
            self._began = self._clock()

    def reached(self, done: float, total: float) -> None:
        """Note that ``done`` of ``total`` parts are done, of which the last may be done in part."""
        if self._began is not None and done > 0:
            now = self._clock()
            self._end = now + (now - self._began) / done * max(0.0, total - done)

    def left(self) -> float | None:
        """Return the seconds until the end; ``None`` as long as nothing is known."""
        return None if self._end is None else max(0.0, self._end - self._clock())


def in_words(seconds: float) -> str:
    """Return a duration as a person would say it: ``85 s``, ``34 min``, ``5 h 20 min``, ``3 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 86400:.0f} days"


def left_in_words(seconds: float, now: datetime | None = None) -> str:
    """Return the time that is left and the time of its end: ``34 min left, ends 21:14``."""
    now = now or datetime.now()
    end = now + timedelta(seconds=min(seconds, FARTHEST))
    form = "%H:%M" if end.date() == now.date() else "%a %H:%M" if end - now < timedelta(days=6) else "%Y-%m-%d"
    return f"{in_words(seconds)} left, ends {end:{form}}"
