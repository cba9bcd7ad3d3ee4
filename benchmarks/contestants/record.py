"""What a contestant tells: when each round ended, how many images it trained, and their mean loss."""

import json
import sys
import time
from collections.abc import Sequence

PAUSE = "pause"
"""The line with which a contestant asks for its resources to be read; it goes on when it is answered by a line."""


class Record:
    """Writes to standard output; times are of ``time.monotonic``, which is the same clock in every process."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.ends: list[float] = []
        self.begun = 0.0
        """When the second round began"""

    def round_done(self) -> None:
        """Note the end of a round; at the ends of the first and of the last, the resources are read."""
        self.ends.append(time.monotonic())
        if len(self.ends) in (1, self.rounds):
            print(PAUSE, flush=True)
            sys.stdin.readline()
        if len(self.ends) == 1:
            self.begun = time.monotonic()

    def finish(self, images: Sequence[int], losses: Sequence[float]) -> None:
        """Write one JSON line; ``images`` and ``losses`` have an entry for each round."""
        told = {"begun": self.begun, "ends": self.ends, "images": list(images), "losses": list(losses)}
        print(json.dumps(told), flush=True)
