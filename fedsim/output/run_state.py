"""What is known of a run while it runs, and the text that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsim.output.forecast import Forecast, left_in_words
from fedsim.output.sparkline import sparkline

LONGEST_SPARKLINE, SHORTEST_SPARKLINE = 60, 5
"""Characters; where there is no room for the shortest, there is none."""
GAP = "  "
"""Between the parts of a line"""


@dataclass
class RunState:
    """What the events of a ``Reporter`` have told of a run."""

    first: int = 1
    """The first round that is trained"""
    rounds: int = 0
    """The last one"""
    round: int = 0
    """The round that is being trained, or else the last one"""
    clients: int = 0
    """Size of its cohort"""
    done: int = 0
    """How many of these have trained"""
    accuracies: list[float] = field(default_factory=list)
    """The mean client accuracy of each evaluated round"""
    evaluated: dict[str, Any] = field(default_factory=dict)
    """The metrics of the last evaluated round"""
    measured: dict[str, Any] = field(default_factory=dict)
    """The metrics of the last round"""
    forecast: Forecast = field(default_factory=Forecast)

    def start(self, first_round: int, rounds: int) -> None:
        self.first, self.rounds = first_round, rounds

    def cohort(self, round: int, clients: int) -> None:
        self.round, self.clients, self.done = round, clients, 0
        self.forecast.begin()

    def client_done(self) -> None:
        self.done += 1
        self._reached(self.round - self.first + self.done / max(1, self.clients))

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self.measured = metrics
        if "client_accuracy_mean" in metrics:
            self.evaluated = metrics
            self.accuracies.append(metrics["client_accuracy_mean"])
        if round >= self.round:  # on devices, a round is recorded while the next one is trained
            self.round, self.done = round, self.clients
            self._reached(round - self.first + 1)

    def _reached(self, rounds: float) -> None:
        self.forecast.reached(rounds, self.rounds - self.first + 1)

    @property
    def completed(self) -> float:
        """The share of the rounds that is done, from 0 to 1."""
        done = self.round - 1 + (self.done / self.clients if self.clients else 0)
        return min(1.0, max(0.0, done / max(1, self.rounds)))

    def speed(self) -> list[str]:
        """Return images/s and the memory after the last round, as far as they are known."""
        shown = []
        if "images_per_second" in self.measured:
            shown.append(f"{self.measured['images_per_second']:.0f} images/s")
        if "memory_mb" in self.measured:
            memory = self.measured["memory_mb"]
            shown.append(f"{memory:.0f} MB" if memory < 1000 else f"{memory / 1000:.1f} GB")
        return shown

    def left(self) -> list[str]:
        """Return the time left and the end, if they are known and the end is not there."""
        left = self.forecast.left()
        return [left_in_words(left)] if left is not None and self.completed < 1 else []

    def line(self, round: int) -> str:
        """Return the line about a round that was evaluated, for a log."""
        shown = [f"round {round}/{self.rounds}", f"client accuracy {self.evaluated['client_accuracy_mean']:.1%}"]
        if "client_accuracy_worst" in self.evaluated:
            shown.append(f"worst {self.evaluated['client_accuracy_worst']:.1%}")
        if "global_accuracy" in self.evaluated:  # there is none where devices do not share parts of the model
            shown.append(f"global accuracy {self.evaluated['global_accuracy']:.1%}")
        return GAP.join([*shown, *self.speed(), *self.left()])

    def where(self) -> list[str]:
        """Return the round, the clients that have trained in it, and when the run ends."""
        clients = [f"{self.done}/{self.clients} clients"] if self.clients else []
        return [f"round {self.round}/{self.rounds}", *clients, *self.left()]

    def how_well(self, width: int, *, ascii_only: bool) -> list[str]:
        """Return the accuracies of the last evaluated round behind the curve of all, and speed and memory."""
        if not self.evaluated:
            return self.speed()
        mean = f"{self.evaluated['client_accuracy_mean']:.1%}"
        others = self.speed()
        if "client_accuracy_worst" in self.evaluated:
            others.insert(0, f"worst {self.evaluated['client_accuracy_worst']:.1%}")
        room = min(LONGEST_SPARKLINE, width - len(GAP.join([f"client accuracy  {mean}", *others])))
        curve = sparkline(self.accuracies, room, ascii_only=ascii_only) if room >= SHORTEST_SPARKLINE else ""
        return [" ".join(["client accuracy", *([curve] if curve else []), mean]), *others]


def fitting(parts: Sequence[str], width: int) -> str:
    """Return as many of these parts, from the first one on, as have room in a line; of the first what has room."""
    line = parts[0][:width] if parts else ""
    for part in parts[1:]:
        if len(line) + len(GAP) + len(part) > width:
            break
        line += GAP + part
    return line
