"""A Grid that notes who fails."""

from flwr.app import Message

from fedsim.engines.grid import FederationGrid, WrappedGrid


class NotingGrid(WrappedGrid):
    """Another grid, and the clients whose answers were errors since it was made: each once for a type of message."""

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__(grid)
        self._faults: dict[tuple[int, str], str] = {}

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        """The client, the type of message, and the first line of the reason."""
        return [(client, type_, reason) for (client, type_), reason in self._faults.items()]

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").partition("\n")[0]
            self._faults.setdefault((message.metadata.dst_node_id, message.metadata.message_type), reason)
        return reply
