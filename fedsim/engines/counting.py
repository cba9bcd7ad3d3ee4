"""A Grid that counts the bytes of what goes through it."""

from flwr.app import Message, MessageType

from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages import bytes_of


class CountingGrid(WrappedGrid):
    """Another grid, and the bytes of the arrays in its messages and replies since it was made.

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
