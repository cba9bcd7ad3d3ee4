"""The events of a run that are told to whoever follows it, and the warnings of this project among them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Reporter:
    """Base class of the reporters. It shows nothing; subclasses override the methods whose events they show."""

    def start(self, first_round: int, rounds: int) -> None:
        """Report the start of a run, from ``first_round``, the first to be trained, to the last, ``rounds``."""

    def resumed(self, accuracies: Sequence[float]) -> None:
        """Report the mean client accuracies of the rounds that were evaluated before a run was resumed."""

    def cohort(self, round: int, clients: int) -> None:
        """Report that a round begins with a cohort of ``clients`` clients."""

    def client_done(self) -> None:
        """Report that one more client of the round has trained."""

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        """Report that a round is recorded.

        Args:
            round: The number of the round.
            metrics: Its columns of ``rounds.csv`` that describe the model, if it was evaluated; ``memory_mb``, the
                resident memory of the server and its workers, in MB; and, if clients have trained in it,
                ``images_per_second``, the images that they have trained on, each counted ``local_epochs`` times, over
                the seconds of the round.
        """

    def say(self, text: str) -> None:
        """Show a permanent line."""

    def warn(self, text: str) -> None:
        """Show a warning, which is a line that no reporter leaves out."""
        self.say(text)

    def close(self) -> None:
        """End the report of this run."""


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
    propagated = {logger: logger.propagate for logger in ours}
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
            logger.propagate = propagated[logger]


class _ReporterHandler(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        show = self.reporter.warn if record.levelno >= logging.WARNING else self.reporter.say
        show(self.format(record))
