"""A Grid that counts the bytes of what goes through it."""

from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, MessageType, RecordDict

from fedsim.engines.grid import FederationGrid
from fedsim.messages import bytes_of


class CountingGrid(FederationGrid):
    """Another grid, and the bytes of the arrays in its messages and replies since it was made.

    What a method asks of its clients before or beside training is thus counted too; evaluating is measuring, and not.
    """

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__()
        self._grid = grid
        self.bytes_down = self.bytes_up = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        self.bytes_down += sum(bytes_of(each) for each in messages if not _measures(each))
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            if reply.has_content():
                self.bytes_up += bytes_of(reply)
            yield reply

    def client_states(self) -> dict[int, RecordDict] | None:
        return self._grid.client_states()

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run


def _measures(message: Message) -> bool:
    return message.metadata.message_type.startswith(MessageType.EVALUATE)
