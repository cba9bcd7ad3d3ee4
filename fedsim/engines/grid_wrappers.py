"""Grids around a grid: one counts bytes, one remembers who failed."""

from flwr.app import Message, MessageType

from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages.schema import bytes_of, kind_of


class CountingGrid(WrappedGrid):
    """Count the bytes of the arrays in messages and replies since it was made.

    What a method asks of its clients before or beside training is thus counted too; evaluating is measuring, and not.
    """

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__(grid)
        self.bytes_down = self.bytes_up = 0

    def sent(self, message: Message) -> None:
        if not message.metadata.message_type.startswith(MessageType.EVALUATE):
            self.bytes_down += bytes_of(message)

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_content():
            self.bytes_up += bytes_of(reply)
        return reply


class FaultGrid(WrappedGrid):
    """Remember the clients whose answers were errors since it was made: each once for a type of message."""

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__(grid)
        self._faults: dict[tuple[int, str], str] = {}

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        """The client, what the message was about, and the first line of the reason."""
        return [(client, type_, reason) for (client, type_), reason in self._faults.items()]

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").partition("\n")[0]
            self._faults.setdefault((message.metadata.dst_node_id, kind_of(message)), reason)
        return reply
