"""Grids around a grid, in the server: one decompresses replies, one checks them."""

from flwr.app import Message

from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import decompress
from fedsim.messages.groups import ADD_UP
from fedsim.messages.schema import ARRAYS, TRAIN, arrays_of, config_of, moved_entries
from fedsim.methods.reply_checks import ReplyChecks, refused, unreadable


class CheckedGrid(WrappedGrid):
    """A grid wrapper that checks replies, but for those that were checked where they were made."""

    def __init__(self, grid: FederationGrid, checks: ReplyChecks) -> None:
        super().__init__(grid)
        self._checks = checks

    def passed(self, message: Message, reply: Message) -> Message:
        checked_there = ADD_UP in config_of(message)
        return reply if checked_there else self._checks.checked(message, reply)


class DecompressingGrid(WrappedGrid):
    """A grid wrapper that decompresses replies to training messages."""

    def __init__(self, grid: FederationGrid, form: str, exact: frozenset[str]) -> None:
        """Wrap a grid.

        Args:
            grid: The grid whose replies are compressed.
            form: The setting ``compression``.
            exact: Names of the entries that are never compressed.
        """
        super().__init__(grid)
        self._form, self._exact = form, exact

    def passed(self, message: Message, reply: Message) -> Message:
        if message.metadata.message_type != TRAIN or not reply.has_content():
            return reply
        try:
            received = to_tensors(reply.content.array_records.get(ARRAYS, {}))
            exact = self._exact | moved_entries(config_of(message))
            trained = decompress(self._form, to_tensors(arrays_of(message)), received, exact)
            reply.content[ARRAYS] = to_record(trained)
        except Exception as error:  # unreadable content must not end the run
            return refused(message, unreadable(error))
        return reply
