"""One round while it goes on: what was measured in it, and who failed."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from datasets.source import Part
from fedsim.core.errors import RoundFailed
from fedsim.diagnostics.updates import UpdateStatistics
from fedsim.metrics.round_metrics import Row
from fedsim.server.evaluation import ByPart, Evaluation
from fedsim.server.federated_model import FederatedModel

log = logging.getLogger(__name__)


@dataclass
class Round:
    """A round, until it is written down."""

    number: int
    min_fraction_success: float
    """A smaller share of clients that succeed ends the run"""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    row: Row = field(default_factory=dict)
    """What training gives to the round's row of ``rounds.csv``"""
    updates: UpdateStatistics | None = None
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    """The clients that failed or whose reply was refused, at what, and why"""
    model: FederatedModel | None = None
    """What the round has led to, where it is evaluated or diagnosed"""
    evaluation: Evaluation | None = None
    to_ask: Mapping[Part, Collection[int]] = field(default_factory=dict)
    """The clients that are asked along with the next round what their models are worth"""
    measured: ByPart = field(default_factory=dict)
    """What they have answered"""

    def successful(self, replies: Iterable[Message], expected: int, doing: str) -> Iterator[Message]:
        """Pass good replies on and name the clients that failed.

        Raises:
            RoundFailed: Once too few of the ``expected`` replies can be good.
        """
        failed = 0
        for reply in replies:
            if not reply.has_error():
                yield reply
                continue
            failed += 1
            client, reason = reply.metadata.src_node_id, reply.error.reason or "no reason given"
            summary, _, details = reason.partition("\n")
            self.faults.append((client, doing, summary))
            sentence = f"client {client} failed in round {self.number}: {summary}"
            if details:
                log.info("%s", details)
            if (expected - failed) / expected < self.min_fraction_success:
                raise RoundFailed(
                    f"{sentence} (with it {failed} of {expected} clients failed, and "
                    f"min_fraction_success={self.min_fraction_success:g})"
                )
            log.warning("%s", sentence)

    def successful_tests(self, replies: Iterable[Message], expected: int) -> Iterator[Message]:
        """Do the same for evaluations of this round's model."""
        return self.successful(replies, expected, Part.TEST.name.lower())
