"""What a client is given once and keeps: a record that travels with its first training message, and when it changed."""

from collections.abc import Iterable, Iterator

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

HOLDERS, CLIENTS = "holders", "clients"


class Given:
    """One record under one name, and which clients have the present one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.record = ArrayRecord()
        self.holders: set[int] = set()

    def change(self, record: ArrayRecord) -> None:
        """From now on it is another one, which nobody has."""
        self.record = record
        self.holders = set()

    def attach(self, messages: Iterable[Message]) -> list[Message]:
        """The messages, which share their content, with the record for those who have not got it.

        Until it answers, a client is not taken to have it: one that failed may have lost what it kept.
        """
        messages = list(messages)
        with_record = RecordDict({**messages[0].content, self.name: self.record})  # one for all, as the content is
        for message in messages:
            if message.metadata.dst_node_id not in self.holders:
                message.content = with_record
            self.holders.discard(message.metadata.dst_node_id)
        return messages

    def noted(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Passes the replies on; only a client that has answered has kept what it was given."""
        for reply in replies:
            if not reply.has_error():
                self.holders.add(reply.metadata.src_node_id)
            yield reply

    def state(self) -> RecordDict:
        """What a checkpoint must hold of it."""
        return RecordDict({self.name: self.record, HOLDERS: ConfigRecord({CLIENTS: sorted(map(str, self.holders))})})

    def load_state(self, state: RecordDict) -> None:
        record, holders = state[self.name], state[HOLDERS]
        assert isinstance(record, ArrayRecord)
        assert isinstance(holders, ConfigRecord)
        clients = holders[CLIENTS]
        assert isinstance(clients, list)
        self.record, self.holders = record, {int(str(client)) for client in clients}
