"""Grid wrappers that inject faults into training: one for clients that do not answer, one for what others send."""

from collections.abc import Iterable, Iterator

import torch
from flwr.app import ConfigRecord, Error, Message

from fedsim.core.seeding import torch_generator
from fedsim.engines.faults import ABSENT, DROP_OUT, GARBAGE, LATE, NOT_FINITE, NOT_NEEDED, OLD, Attendance, Faults
from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.errors import SUPERFLUOUS, UNKNOWN
from fedsim.messages.schema import ARRAYS, CONFIG, ROUND, TRAIN, config_of


class Attendances(dict[int, Attendance]):
    """What becomes of each client of the present cohort; the loop fills it before it sends."""


class AbsentGrid(WrappedGrid):
    """A grid whose clients do not get a training message that they would not answer; an error stands in its place."""

    def __init__(self, grid: FederationGrid, faults: Faults, attendances: Attendances) -> None:
        super().__init__(grid)
        self._faults, self._attendances = faults, attendances

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        errors = [self._error(message) for message in messages]
        sent = [message for message, error in zip(messages, errors, strict=True) if error is None]
        replies = iter(self._grid.send_and_receive(sent, timeout=timeout))
        for message, error in zip(messages, errors, strict=True):
            yield next(replies) if error is None else Message(error, reply_to=message)

    def passed(self, message: Message, reply: Message) -> Message:
        return reply

    def _error(self, message: Message) -> Error | None:
        known = self._attendances.get(message.metadata.dst_node_id)
        if message.metadata.message_type != TRAIN or known is None or known.outcome not in ABSENT:
            return None
        reason = {
            DROP_OUT: "it dropped out (faults.drop_out)",
            LATE: f"it would have taken {known.seconds:.3g} s, and faults.deadline={self._faults.deadline} s",
            NOT_NEEDED: "others had answered before (faults.over_selection)",
        }[known.outcome]
        return Error(SUPERFLUOUS if known.outcome == NOT_NEEDED else UNKNOWN, reason)


class CorruptingGrid(WrappedGrid):
    """A grid that replaces what clients send: by NaN, by random numbers, or by a reply to the round before."""

    def __init__(self, grid: FederationGrid, faults: Faults, attendances: Attendances) -> None:
        super().__init__(grid)
        self._faults, self._attendances = faults, attendances

    def passed(self, message: Message, reply: Message) -> Message:
        client, known = message.metadata.dst_node_id, self._attendances.get(message.metadata.dst_node_id)
        if message.metadata.message_type != TRAIN or known is None or not reply.has_content():
            return reply
        round = int(str(config_of(message)[ROUND]))
        if known.outcome == OLD:
            reply.content[CONFIG] = ConfigRecord({**config_of(reply), ROUND: round - 1})
        elif known.outcome in (NOT_FINITE, GARBAGE):
            generator = torch_generator(self._faults.seed, GARBAGE, round=round, client=client)
            tensors = to_tensors(reply.content.array_records[ARRAYS])
            reply.content[ARRAYS] = to_record(
                {name: self._wrong(known.outcome, tensors[name], generator) for name in tensors}
            )
        return reply

    def _wrong(self, outcome: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        if outcome == NOT_FINITE:
            return torch.full_like(tensor, torch.nan)
        random = torch.randn(tensor.shape, generator=generator) * self._faults.garbage_scale
        return random.to(tensor.device, tensor.dtype)
