"""A round in progress: its results, and the clients that failed."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from datasets.source import Part
from fedsim.core.errors import RoundFailed
from fedsim.diagnostics.updates import UpdateStatistics
from fedsim.messages.errors import SUPERFLUOUS
from fedsim.methods.federated_model import FederatedModel
from fedsim.metrics.measured import Evaluation
from fedsim.metrics.round_metrics import Row
from fedsim.server.evaluation import ByPart

log = logging.getLogger(__name__)


@dataclass
class Round:
    """A round, until it is recorded."""

    number: int
    min_fraction_success: float
    """If a smaller share of clients succeeds, the run ends."""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    images: int = 0
    """How many images were trained on, each counted as often as there are local epochs."""
    row: Row = field(default_factory=dict)
    """The columns of ``rounds.csv`` from training."""
    updates: UpdateStatistics | None = None
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    """Client, activity and reason for clients that failed or whose reply was refused."""
    model: FederatedModel | None = None
    """The model after the round, if it is evaluated or diagnosed."""
    evaluation: Evaluation | None = None
    to_ask: Mapping[Part, Collection[int]] = field(default_factory=dict)
    """The clients whose evaluation of this round's model is folded into the next round, by part of their images."""
    measured: ByPart = field(default_factory=dict)
    """The results of these clients."""

    def successful(self, replies: Iterable[Message], expected: int, doing: str) -> Iterator[Message]:
        """Yield the replies without errors; record and log the clients that failed.

        Args:
            replies: The replies.
            expected: Number of messages that were sent.
            doing: The activity, such as ``train`` or the evaluated part.

        Raises:
            RoundFailed: As soon as a share of less than ``min_fraction_success`` can succeed.
        """
        failed = 0
        for reply in replies:
            if not reply.has_error():
                yield reply
                continue
            client, reason = reply.metadata.src_node_id, reply.error.reason or "no reason given"
            summary, _, details = reason.partition("\n")
            if reply.error.code == SUPERFLUOUS:
                expected -= 1
                sentence = f"client {client} was not needed in round {self.number}"
            else:
                failed += 1
                self.faults.append((client, doing, summary))
                sentence = f"client {client} failed in round {self.number}: {summary}"
                if details:
                    log.info("%s", details)
            if failed and (expected - failed) / expected < self.min_fraction_success:
                raise RoundFailed(
                    f"{sentence} (with it {failed} of {expected} clients failed, and "
                    f"min_fraction_success={self.min_fraction_success:g})"
                )
            if reply.error.code != SUPERFLUOUS:
                log.warning("%s", sentence)

    def successful_tests(self, replies: Iterable[Message], expected: int) -> Iterator[Message]:
        """Yield the replies without errors to evaluation messages, as ``successful`` does."""
        return self.successful(replies, expected, Part.TEST.name.lower())
