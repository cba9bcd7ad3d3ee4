"""Queries of a method to its clients before training: the server side."""

import logging
from collections.abc import Iterator, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.core.errors import RoundFailed
from fedsim.messages.schema import CONFIG, QUERY, QUERY_METHOD

log = logging.getLogger(__name__)


def ask(grid: Grid, query: str, contents: Mapping[int, RecordDict]) -> Iterator[Message]:
    """Send each client its content under the name of a query, and yield the replies of clients that do not fail.

    Clients with the same content object share one message content.

    Raises:
        RoundFailed: If all clients fail.
    """
    named: dict[int, RecordDict] = {}
    for content in contents.values():
        config = content.get(CONFIG, ConfigRecord())
        assert isinstance(config, ConfigRecord)
        if id(content) not in named:
            named[id(content)] = RecordDict({**content, CONFIG: ConfigRecord({**config, QUERY: query})})
    messages = [Message(named[id(content)], client, QUERY_METHOD) for client, content in contents.items()]
    answered = False
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").partition("\n")[0]
            log.warning("client %d failed: %s", reply.metadata.src_node_id, reason)
            continue
        answered = True
        yield reply
    if not answered:
        raise RoundFailed(f"all {len(messages)} clients that were asked before training failed")
