"""What a client is sent once and keeps: a record that travels with its first training message, and when it changed."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedsim.messages.schema import CACHED

HOLDERS, CLIENTS = "holders", "clients"


class CachedBroadcast:
    """One record under one name, and which clients hold the present one.

    On the wire and in a client's state its name begins with ``cached/``. Until it answers, a client is not taken to
    hold it: one that failed may have lost what it kept.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.record = ArrayRecord()
        self.holders: set[int] = set()

    def change(self, record: ArrayRecord) -> None:
        """Replace the record by another one, which nobody holds."""
        self.record = record
        self.holders = set()

    def attach(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages with the record for those who do not hold it."""
        messages = list(messages)
        contents = self._with_record(messages)
        for message in messages:
            if message.metadata.dst_node_id not in self.holders:
                message.content = contents[id(message.content)]
            self.holders.discard(message.metadata.dst_node_id)
        return messages

    def attach_to_all(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages with the record: for evaluation, which keeps nothing."""
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
        """Remember that a client has answered, and so holds what it was sent."""
        self.holders.add(client)

    def state(self) -> RecordDict:
        """Return what a checkpoint must hold of it."""
        return RecordDict({self.name: self.record, HOLDERS: ConfigRecord({CLIENTS: sorted(map(str, self.holders))})})

    def load_state(self, state: RecordDict) -> None:
        """Take back what ``state`` returned."""
        record, holders = state[self.name], state[HOLDERS]
        assert isinstance(record, ArrayRecord)
        assert isinstance(holders, ConfigRecord)
        clients = holders[CLIENTS]
        assert isinstance(clients, list)
        self.record, self.holders = record, {int(str(client)) for client in clients}
