"""Records that are sent to a client once and stored there: with its first training message, and again when changed."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedsim.messages.schema import CACHED

HOLDERS, CLIENTS = "holders", "clients"


class CachedBroadcast:
    """One record under one name, and the clients that have its current version.

    In messages and in the client state its name begins with ``cached/``. A client counts as a holder once it has
    replied: a client that failed may have lost its state.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.record = ArrayRecord()
        self.holders: set[int] = set()

    def change(self, record: ArrayRecord) -> None:
        """Replace the record by another one, which no client has yet."""
        self.record = record
        self.holders = set()

    def attach(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages, which share one content, and add the record for the clients that do not have it."""
        messages = list(messages)
        contents = self._with_record(messages)
        for message in messages:
            if message.metadata.dst_node_id not in self.holders:
                message.content = contents[id(message.content)]
            self.holders.discard(message.metadata.dst_node_id)
        return messages

    def attach_to_all(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages, which share one content, with the record: evaluation does not store it."""
        messages = list(messages)
        contents = self._with_record(messages)
        for message in messages:
            message.content = contents[id(message.content)]
        return messages

    def _with_record(self, messages: list[Message]) -> dict[int, RecordDict]:
        """Return, by the content of messages, one with the record for all that share it: an engine packs it once."""
        contents = {id(message.content): message.content for message in messages}
        return {key: RecordDict({**each, f"{CACHED}{self.name}": self.record}) for key, each in contents.items()}

    def answered(self, client: int) -> None:
        """Record that a client has replied, and therefore has the record."""
        self.holders.add(client)

    def state(self) -> RecordDict:
        """Return the state for a checkpoint: the record and its holders."""
        return RecordDict(
            {self.name: self.record, f"{self.name}/{HOLDERS}": ConfigRecord({CLIENTS: sorted(map(str, self.holders))})}
        )

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        holders = state.get(f"{self.name}/{HOLDERS}", state.get(HOLDERS))  # as older checkpoints call it
        record = state[self.name]
        assert isinstance(record, ArrayRecord)
        assert isinstance(holders, ConfigRecord)
        clients = holders[CLIENTS]
        assert isinstance(clients, list)
        self.record, self.holders = record, {int(str(client)) for client in clients}
