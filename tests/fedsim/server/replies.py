"""A good reply to training, and what the server sees of others."""

from collections.abc import Iterable, Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.engines.grid import WrappedGrid
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import ARRAYS, CONFIG, METRICS, ROUND, TRAIN
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.server.reply_grids import CheckedGrid, DecompressingGrid

SENT = {"head.weight": torch.tensor([[0.5, -2.0]]), "seen": torch.tensor(3)}
IMAGES, TESTS = 40, 20
GOOD = {"num-examples": IMAGES, "loss": 0.5}
TESTED = {"num-examples": TESTS, "correct": 7, "loss": 2.0}
Content = dict[str, ArrayRecord | MetricRecord | ConfigRecord]


class Answering(WrappedGrid):
    """Client 1 answers every message with this."""

    def __init__(self, content: Content) -> None:
        super().__init__(InlineGrid(lambda device: None, 2, [torch.device("cpu")]))  # type: ignore[arg-type,return-value]
        self.content = RecordDict(content)

    def passed(self, message: Message, reply: Message) -> Message:
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            yield Message(self.content, reply_to=message)


def fault(
    checks: ReplyChecks, content: Content, type_: str = TRAIN, compression: str | None = None, **config: object
) -> str | None:
    """What the server sees of that answer to a message with that config, if it is an error."""
    asked = ConfigRecord({ROUND: 4, **config})  # type: ignore[arg-type]
    message = Message(RecordDict({CONFIG: asked, ARRAYS: to_record(SENT)}), 1, type_)
    answering = Answering(content)
    plain = answering if compression is None else DecompressingGrid(answering, compression, frozenset())
    (reply,) = CheckedGrid(plain, checks).send_and_receive([message])
    return None if reply.has_content() else reply.error.reason


def trained(changed: dict[str, torch.Tensor] | None = None, **more: object) -> Content:
    """A good answer to training, with these changes."""
    content: Content = {
        METRICS: MetricRecord(GOOD),
        ARRAYS: to_record(SENT if changed is None else {**SENT, **changed}),
        CONFIG: ConfigRecord({ROUND: 4}),
    }
    return {**content, **more}  # type: ignore[dict-item]
