"""Replies from devices, one after the other, each of no more bytes than a limit.

Flower puts a reply together, however large it is and whatever is wrong with it, before anybody can look at it. Its
client of the SuperLink is therefore wrapped by one that passes on a single reply at a time, counts what is received of
it, and says of what is above the limit that it is not there.
"""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Any

import httpx
from flwr.app import ArrayRecord, Error, Message
from flwr.app.message import Array
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
    iterate_object_tree,
)

from fedsim.deployment.error_text import one_line
from fedsim.messages.errors import UNKNOWN
from fedsim.messages.schema import TRAIN, message

ALWAYS = 1 << 27
"""Bytes that any reply may have"""
LIST = 1 << 20
"""Bytes of the list of an array's pieces, which is read whole: enough for some 10,000 pieces of 5 MB"""
TIMES = 50
"""How many times the bytes of the largest message so far a reply may have: a method may send a part of a model, and ask
for numbers of all of it"""


class LimitedReplies:
    """Receives the replies that have arrived at Flower's grid; the limit holds where that is one of a SuperLink."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._largest_sent = 0
        client = getattr(grid, "_runtime_client", None)
        self._link = None if client is None else _OneReply(client, self)
        if self._link is not None:
            grid._client = self._link  # type: ignore[attr-defined]  # of Flower's grid of a SuperLink, not of every Grid

    @property
    def largest(self) -> int:
        """The bytes that a reply may have."""
        return max(ALWAYS, TIMES * self._largest_sent)

    def sent(self, size: int) -> None:
        """Note the bytes of a message."""
        self._largest_sent = max(self._largest_sent, size)

    def pull(self, ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies to the messages of these ids that have arrived; an error for one that cannot be received.

        Raises:
            httpx.HTTPError: If the SuperLink cannot be reached.
        """
        left = list(ids)
        if self._link is None:
            yield from self._grid.pull_messages(left) if left else ()
            return
        while left:
            try:
                replies = list(self._grid.pull_messages(left))
            except Exception as error:
                if isinstance(error, httpx.HTTPError) or self._link.reply.answers not in left:
                    raise  # it is not the content of a reply that Flower cannot put together
                replies = [_failed(self._link.reply.answers, one_line(f"it sent what cannot be read ({error!r})"))]
            if not replies:
                return
            for reply in replies:
                if self._link.reply.answers in left:  # else it answers nothing that was asked
                    left.remove(self._link.reply.answers)
                    yield self._allowed(reply, self._link.reply)

    def _allowed(self, reply: Message, received: "_Received") -> Message:
        """Return the reply, or an error in its place."""
        if reply.metadata.reply_to_message_id != received.answers:  # the device's word, and the SuperLink's
            return _failed(received.answers, "it sent an answer to another message")
        if received.too_large or _bytes_by_name(reply) > self.largest:
            words = f"it sent more than {self.largest / 1e6:.0f} MB, which no reply may have"
            return _failed(received.answers, words)
        return reply


class _OneReply:
    """Flower's client of the SuperLink, which passes on one reply at a time, and no more of it than is allowed."""

    def __init__(self, client: Any, limit: LimitedReplies) -> None:
        self._client = client
        self._limit = limit
        self._arrived: deque[tuple[Any, Any]] = deque()
        self._lock = Lock()
        self.reply = _Received("", frozenset())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 (Flower's name)
        self.reply = _Received("", frozenset())
        if not self._arrived:  # the SuperLink tells of each reply once
            response = self._client.PullMessages(request)
            self._arrived.extend(zip(response.messages_list, response.message_object_trees, strict=True))
        if not self._arrived:
            return PullAppMessagesResponse()
        reply, tree = self._arrived.popleft()
        objects = frozenset(part.object_id for part in iterate_object_tree(tree))
        self.reply = _Received(reply.metadata.reply_to_message_id, objects)
        return PullAppMessagesResponse(messages_list=[reply], message_object_trees=[tree])

    def PullObject(self, request: Any) -> Any:  # noqa: N802 (Flower's name)
        # Flower asks for several objects at once, and does not wait for those of a reply that it has given up: what
        # arrives of that one late is its own, not the next one's.
        reply = self.reply
        if reply.too_large or request.object_id not in reply.objects:
            return PullObjectResponse(object_found=False)
        response = self._client.PullObject(request)
        with self._lock:
            reply.add(request.object_id, response.object_content)
            reply.too_large |= reply.bytes > self._limit.largest
        return PullObjectResponse(object_found=False) if reply.too_large else response


class _Received:
    """What has been received of a reply to the message ``answers``, which has these objects."""

    def __init__(self, answers: str, objects: frozenset[str]) -> None:
        self.answers = answers
        self.objects = objects
        self.too_large = False
        self.bytes = 0
        self._sizes: dict[str, int] = {}
        self._named: set[str] = set()
        self._awaited: Counter[str] = Counter()
        """How often pieces that have not come yet are named again"""

    def add(self, object_id: str, content: bytes) -> None:
        """Count the content of an object; one that is empty has not arrived at the SuperLink yet."""
        if not content:
            return
        self._sizes[object_id] = len(content)
        self.bytes += len(content) * (1 + self._awaited.pop(object_id, 0))
        if get_object_type_from_object_content(content) == Array.__qualname__:
            self._add_repeated(content)

    def _add_repeated(self, array: bytes) -> None:
        """Count what an array has by naming pieces again, which are received once."""
        if len(array) > LIST:
            self.too_large = True
            return
        pieces = get_object_children_ids_from_object_content(array)
        for place in json.loads(get_object_body(array, Array))["arraychunk_ids"]:
            piece = pieces[place]
            if piece in self._named and piece in self._sizes:
                self.bytes += self._sizes[piece]
            elif piece in self._named:
                self._awaited[piece] += 1
            self._named.add(piece)


def _bytes_by_name(reply: Message) -> int:
    """Return the bytes of a reply's arrays, each as often as it has a name; all of one object are received once."""
    if not reply.has_content():
        return 0
    records = [record for record in reply.content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def _failed(message_id: str, reason: str) -> Message:
    answered = message(TRAIN, 0, None)
    answered.metadata.__dict__["_message_id"] = message_id
    return Message(Error(UNKNOWN, reason), reply_to=answered)
