"""Grids around a grid: one counts bytes, one records which clients failed."""

from flwr.app import Message, MessageType

from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages.arrays import count_bytes
from fedsim.messages.groups import is_added_up
from fedsim.messages.schema import arrays_of, bytes_of, kind_of


class CountingGrid(WrappedGrid):
    """A grid that counts the bytes of the arrays in messages and replies since it was made.

    Queries of a method before or beside training are counted too. Messages that ask for an evaluation are not, since
    evaluation is measurement; replies are counted all the same.
    """

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__(grid)
        self.bytes_down = self.bytes_up = 0

    def sent(self, message: Message) -> None:
        if not message.metadata.message_type.startswith(MessageType.EVALUATE):
            self.bytes_down += bytes_of(message)

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_content():
            # The arrays that are in a sum have the forms of those that were sent; each client would send its own.
            self.bytes_up += count_bytes(arrays_of(message)) if is_added_up(reply) else bytes_of(reply)
        return reply


class FaultGrid(WrappedGrid):
    """A grid that records which clients answered with an error since it was made, once per client and message type."""

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__(grid)
        self._faults: dict[tuple[int, str], str] = {}

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        """For each fault the client, the kind of the message, and the first line of the reason."""
        return [(client, type_, reason) for (client, type_), reason in self._faults.items()]

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").partition("\n")[0]
            self._faults.setdefault((message.metadata.dst_node_id, kind_of(message)), reason)
        return reply
