"""Evaluation that costs no message: clients evaluate a round's model when they are sent it to train on.

Where a message costs seconds, as on devices, the clients of the next cohort evaluate what they receive before they
train, and only the others are sent a message of their own, along with the training messages. So a round is written down
one round later; its numbers are the same.
"""

from collections.abc import Iterator
from itertools import islice

from flwr.app import ArrayRecord, Message, RecordDict

from datasets.source import Part
from fedsim.engines.grid import FederationGrid
from fedsim.messages.schema import CONFIG, EVALUATE_PARTS, EVALUATION, config_of
from fedsim.metrics.measured import Measured
from fedsim.server.evaluation import Evaluator
from fedsim.server.round import Round


class FoldedEvaluation:
    """What is asked along with the training of one round about the model of the round before."""

    def __init__(
        self,
        previous: Round | None,
        evaluator: Evaluator,
        training: list[Message],
        grid: FederationGrid,
        arrays: ArrayRecord,
    ) -> None:
        """Ask the cohort in its ``training`` messages, which are changed, and make messages to the other clients."""
        self.previous = previous
        self.others: dict[Part, list[Message]] = {}
        if previous is None:
            return
        _ask_cohort(training, previous)
        cohort = {message.metadata.dst_node_id for message in training}
        self.others = {
            part: evaluator.messages(grid, previous.number, arrays, {part: set(clients) - cohort})
            for part, clients in previous.to_ask.items()
        }

    @property
    def messages(self) -> list[Message]:
        """Those to clients outside of the cohort."""
        return [message for part in self.others.values() for message in part]

    def read(self, reply: Message) -> None:
        """Take out of a training reply what the client has measured before it trained."""
        for name in [name for name in reply.content.metric_records if name.startswith(EVALUATION)]:
            record = reply.content.metric_records[name]
            del reply.content[name]  # so that a strategy finds the metrics of training alone
            if self.previous is not None:
                part = Part[name.removeprefix(EVALUATION)]
                measured = Measured.from_metrics(record)
                self.previous.measured.setdefault(part, {})[reply.metadata.src_node_id] = measured

    def read_others(self, replies: Iterator[Message]) -> None:
        """Read the replies to ``messages``.

        Raises:
            RoundFailed: If too many of these clients fail.
        """
        for part, asked in self.others.items():
            assert self.previous is not None
            answers = islice(replies, len(asked))
            for ok in self.previous.successful(answers, len(asked), part.name.lower()):
                self.previous.measured.setdefault(part, {})[ok.metadata.src_node_id] = Measured.from_reply(ok)


def _ask_cohort(training: list[Message], previous: Round) -> None:
    changed: dict[tuple[int, tuple[str, ...]], RecordDict] = {}
    for message in training:
        client = message.metadata.dst_node_id
        parts = tuple(part.name for part, clients in previous.to_ask.items() if client in clients)
        if parts:
            config = config_of(message).copy()
            config[EVALUATE_PARTS] = list(parts)
            key = id(message.content), parts  # one for all whose content is one: an engine packs it once
            message.content = changed.setdefault(key, RecordDict({**message.content, CONFIG: config}))
