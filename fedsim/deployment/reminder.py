"""When the log says again for whom a run waits."""

MOST_BETWEEN = 300.0


class Reminder:
    """Times for a word about what is waited for: after ``first`` seconds, then at doubling intervals of up to 300."""

    def __init__(self, first: float) -> None:
        self._next = first

    def due(self, waited: float) -> bool:
        """Return whether a word is due after ``waited`` seconds; if so, it counts as said."""
        if waited <= self._next:
            return False
        while self._next < waited:
            self._next += min(self._next, MOST_BETWEEN)
        return True
