"""A limit on the bytes of one reply, kept while they are received.

Flower puts a reply together, however large it is, before anybody can look at it. Its client of the SuperLink is
therefore wrapped by one that counts what it has received of each reply, and says of the rest that it is not there.
"""

from collections import Counter
from threading import Lock
from typing import Any

from flwr.proto.message_pb2 import PullObjectResponse
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

ALWAYS = 1 << 27
"""Bytes that any reply may have"""
TIMES = 50
"""How many times the bytes of the largest message so far a reply may have: a method may send a part of a model, and ask
for numbers of all of it"""


class ReplyLimit:
    """Counts the bytes of the replies that arrive through Flower's grid, if it is that of a SuperLink."""

    def __init__(self, grid: Grid) -> None:
        self._largest_sent = 0
        self._refused: set[str] = set()
        client = getattr(grid, "_runtime_client", None)
        if client is not None:
            grid._client = _Counting(client, self)  # type: ignore[attr-defined]

    @property
    def largest(self) -> int:
        """The bytes that a reply may have."""
        return max(ALWAYS, TIMES * self._largest_sent)

    def sent(self, size: int) -> None:
        """Note the bytes of a message."""
        self._largest_sent = max(self._largest_sent, size)

    def refuse(self, message_id: str) -> None:
        """Note that the reply to this message is too large."""
        self._refused.add(message_id)

    def fault(self, message_id: str) -> str | None:
        """Return why the reply to this message was not received; ``None`` if it is not its size."""
        if message_id not in self._refused:
            return None
        return f"it sent more than {self.largest / 1e6:.0f} MB, which no reply may have"


class _Counting:
    """Flower's client of the SuperLink, which receives no more of a reply than the limit allows."""

    def __init__(self, client: Any, limit: ReplyLimit) -> None:
        self._client = client
        self._limit = limit
        self._reply_of: dict[str, str] = {}
        self._answers: dict[str, str] = {}
        self._received: Counter[str] = Counter()
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 (Flower's name)
        response = self._client.PullMessages(request)
        self._received.clear()
        pairs = list(zip(response.messages_list, response.message_object_trees, strict=True))
        self._answers = {each.metadata.message_id: each.metadata.reply_to_message_id for each, _ in pairs}
        self._reply_of = {
            part.object_id: each.metadata.message_id for each, tree in pairs for part in iterate_object_tree(tree)
        }
        return response

    def PullObject(self, request: Any) -> Any:  # noqa: N802 (Flower's name)
        reply = self._reply_of.get(request.object_id, "")
        if self._received[reply] > self._limit.largest:
            self._limit.refuse(self._answers.get(reply, ""))
            return PullObjectResponse(object_found=False)
        response = self._client.PullObject(request)
        with self._lock:  # Flower asks for several objects at once
            self._received[reply] += len(response.object_content)
        return response
