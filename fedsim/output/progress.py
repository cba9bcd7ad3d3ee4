"""The progress of a run as users see it: one live line on a terminal or in a notebook, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fedsim.output.terminal import console


class Reporter:
    """Base class of the reporters. It shows nothing; subclasses override the methods whose events they show."""

    def start(self, first_round: int, rounds: int) -> None:
        """Report the start of a run, from ``first_round``, the first to be trained, to the last, ``rounds``."""

    def cohort(self, round: int, clients: int) -> None:
        """Report that a round begins with a cohort of ``clients`` clients."""

    def client_done(self) -> None:
        """Report that one more client of the round has trained."""

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        """Report that a round is recorded; ``metrics`` has no accuracies if it was not evaluated."""

    def say(self, text: str) -> None:
        """Show a permanent line."""

    def close(self) -> None:
        """End the report of this run."""


class PlainReporter(Reporter):
    """One line per evaluated round, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rounds = 0
        self._first = 1
        self._started = time.monotonic()

    def start(self, first_round: int, rounds: int) -> None:
        self._first, self._rounds, self._started = first_round, rounds, time.monotonic()

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        if "client_accuracy_mean" in metrics:
            self.say(self.line(round, metrics))

    def line(self, round: int, metrics: dict[str, Any]) -> str:
        """Return the line about an evaluated round."""
        line = f"round {round}/{self._rounds}  client accuracy {metrics['client_accuracy_mean']:.1%}"
        if "global_accuracy" in metrics:  # there is none where devices do not share parts of the model
            line += f"  global accuracy {metrics['global_accuracy']:.1%}"
        done = round - self._first + 1
        if done > 0:
            left = (time.monotonic() - self._started) / done * (self._rounds - round)
            line += f"  {left:.0f} s left"
        return line

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class NotebookReporter(PlainReporter):
    """Overwrites one line per evaluated round: of a terminal's control codes, a notebook knows the carriage return."""

    _width = 0

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        if "client_accuracy_mean" in metrics:
            line = self.line(round, metrics)
            print(f"\r{line:<{self._width}}", end="", flush=True)
            self._width = len(line)

    def say(self, text: str) -> None:
        self.close()
        print(text, flush=True)

    def close(self) -> None:
        if self._width:
            print(flush=True)
        self._width = 0


class LiveReporter(Reporter):
    """One line that changes: round, clients done, accuracy so far, time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("round {task.fields[round]}/{task.fields[rounds]}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[done]}/{task.fields[clients]} clients"),
            TextColumn("[bold]{task.fields[accuracy]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, round=0, rounds=0, done=0, clients=0, accuracy="")
        self._clients = 1
        self._done = 0

    def start(self, first_round: int, rounds: int) -> None:
        self._progress.update(self._task, total=rounds - first_round + 1, completed=0, rounds=rounds)
        self._progress.start()

    def cohort(self, round: int, clients: int) -> None:
        self._clients, self._done = clients, 0
        self._progress.update(self._task, round=round, clients=clients, done=0)

    def client_done(self) -> None:
        self._done += 1
        self._progress.update(self._task, advance=1 / self._clients, done=self._done)

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        if "client_accuracy_mean" in metrics:
            accuracy = f"client accuracy {metrics['client_accuracy_mean']:.1%}"
            self._progress.update(self._task, accuracy=accuracy)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def console_reporter() -> Reporter:
    """Return the reporter that suits the standard output of this process."""
    shown = console()
    if shown.is_jupyter:
        return NotebookReporter(shown)
    return LiveReporter(shown) if shown.is_terminal else PlainReporter(shown)


@contextmanager
def logging_to(reporter: Reporter, *, verbose: bool) -> Iterator[None]:
    """Show the warnings of this project as lines of the reporter inside the block.

    With ``verbose``, messages of level INFO are shown too, and so are those of Flower; without it, Flower logs errors
    only.
    """
    handler = _ReporterHandler(reporter)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    ours = [logging.getLogger(name) for name in ("fedsim", "strategies", "clients", "datasets")]
    flower = logging.getLogger("flwr")
    levels = {logger: logger.level for logger in (*ours, flower)}
    for logger in ours:
        logger.addHandler(handler)
        logger.propagate = False  # Hydra has a handler at the root, which would print the line again
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
    flower.setLevel(logging.INFO if verbose else logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        for logger in ours:
            logger.removeHandler(handler)
            logger.propagate = True


class _ReporterHandler(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.say(self.format(record))
