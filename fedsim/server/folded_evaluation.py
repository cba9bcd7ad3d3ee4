"""Evaluation without extra messages: clients evaluate a round's model when they receive it for the next training.

On devices, where a message takes seconds, the clients of the next cohort evaluate the received model before they train,
and only the other clients get an evaluation message, together with the training messages. A round is therefore recorded
one round later; its numbers are the same.
"""

from collections.abc import Iterator
from itertools import islice

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from datasets.source import Part
from fedsim.engines.grid import FederationGrid
from fedsim.messages.schema import CONFIG, EVALUATE_PARTS, EVALUATION, config_of
from fedsim.metrics.measured import Measured
from fedsim.server.evaluation import Evaluator
from fedsim.server.round import Round


class FoldedEvaluation:
    """The evaluation of the previous round's model, combined with the training messages of a round."""

    def __init__(
        self,
        previous: Round | None,
        evaluator: Evaluator,
        training: list[Message],
        grid: FederationGrid,
        arrays: ArrayRecord,
    ) -> None:
        """Add requests to the ``training`` messages, in place, and make evaluation messages to the other clients."""
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
        """The evaluation messages to clients outside the cohort."""
        return [message for part in self.others.values() for message in part]

    def read(self, reply: Message) -> None:
        """Remove the results of an evaluation before training from a training reply, and store them."""
        told = [(name, record) for name, record in reply.content.items() if name.startswith(EVALUATION)]
        for name, record in told:
            assert isinstance(record, MetricRecord)  # by the reply checks
            del reply.content[name]  # so that a strategy only finds the metrics of training
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
            key = id(message.content), parts  # one new content for each shared one: an engine serializes it once
            message.content = changed.setdefault(key, RecordDict({**message.content, CONFIG: config}))
