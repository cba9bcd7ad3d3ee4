"""A reply of more bytes than any has is not received whole, by Flower's own grid."""

from threading import Event, Thread

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import array, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedsim.deployment import reply_limit
from fedsim.deployment.reply_limit import LimitedReplies, _Received
from fedsim.messages.schema import TRAIN, message

PIECE = 5_242_880
"""Bytes of an array that Flower sends at once"""


class Link:
    """What a SuperLink answers, once: replies to messages ``m0``, ``m1``, ..., of so many megabytes."""

    def __init__(self, *megabytes: int, zeros: bool = False, seed: int | None = None, names: int = 1) -> None:
        self.received, self.replies = 0, len(megabytes)
        self._objects: dict[str, bytes] = {}
        self._response = PullAppMessagesResponse()
        for number, size in enumerate(megabytes):
            sent = message(TRAIN, number, None)
            sent.metadata.__dict__["_message_id"] = f"m{number}"
            drawn = np.random.default_rng(number if seed is None else seed).integers(0, 255, size * 10**6, np.uint8)
            record = ArrayRecord()
            record["w"] = Array(np.zeros_like(drawn) if zeros else drawn)
            for name in range(1, names):
                record[f"w{name}"] = record["w"]
            reply = Message(RecordDict({"arrays": record}), reply_to=sent)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self._objects |= {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
            self._response.message_object_trees.append(get_object_tree(reply))
            self._response.messages_list.append(message_to_proto(remove_content_from_message(reply)))

    def break_array(self, number: int) -> None:
        """Let the array of a reply name a piece that is not there."""
        for part in iterate_object_tree(self._response.message_object_trees[number]):
            content = self._objects[part.object_id]
            if content.startswith(b"Array "):
                self._objects[part.object_id] = content.replace(b'"arraychunk_ids": [0', b'"arraychunk_ids": [7')

    def name_again(self, number: int, times: int) -> None:
        """Let the array of a reply name its first piece more often."""
        for part in iterate_object_tree(self._response.message_object_trees[number]):
            content = self._objects[part.object_id]
            if content.startswith(b"Array "):
                self._objects[part.object_id] = content.replace(b'_ids": [0', b'_ids": [0' + b", 0" * times)

    def forge(self, number: int, answers: str) -> None:
        """Let the object of a reply, which comes first then, say that it answers another message."""
        told, tree = self._response.messages_list[number], self._response.message_object_trees[number]
        for part in iterate_object_tree(tree):
            content = self._objects[part.object_id]
            if content.startswith(b"Message "):
                self._objects[part.object_id] = content.replace(f"m{number}".encode(), answers.encode())
        others = list(zip(self._response.messages_list, self._response.message_object_trees, strict=True))
        ordered = [(told, tree), *(pair for place, pair in enumerate(others) if place != number)]
        self._response = PullAppMessagesResponse(
            messages_list=[message for message, _ in ordered], message_object_trees=[tree for _, tree in ordered]
        )

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802 (Flower's name)
        response, self._response = self._response, PullAppMessagesResponse()
        return response

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802 (Flower's name)
        content = self._objects[request.object_id]
        self.received += len(content)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: object) -> None: ...  # noqa: N802 (Flower's name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setattr(reply_limit, "ALWAYS", 20_000_000)


def grid_of(link: Link) -> HttpGrid:
    grid = HttpGrid(token="t")
    grid.set_run(Run.create_empty(run_id=1))
    grid._client = link
    return grid


def replies_of(*megabytes: int, sent: int = 0, link: Link | None = None) -> tuple[LimitedReplies, list[Message], int]:
    link = link or Link(*megabytes)
    limit = LimitedReplies(grid_of(link))
    limit.sent(sent)
    return limit, list(limit.pull([f"m{number}" for number in range(link.replies)])), link.received


@pytest.mark.usefixtures("small")
def test_one_that_is_too_large_is_refused_and_the_others_arrive() -> None:
    _, replies, received = replies_of(12, 300, 15)
    assert [reply.metadata.reply_to_message_id for reply in replies] == ["m0", "m1", "m2"]
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[2].content.array_records["arrays"]["w"].numpy().nbytes == 15 * 10**6
    assert replies[1].error.reason == "it sent more than 20 MB, which no reply may have"
    assert received < (12 + 15 + 20) * 10**6 + 2 * PIECE  # of the large one no more than what was under way


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("asked_late", [False, True])
def test_what_arrives_late_of_a_refused_one_is_not_counted_with_the_next(asked_late: bool) -> None:
    """Flower does not wait for the pieces of a reply that it has given up."""
    link = Link(12, 15)
    one_reply = LimitedReplies(grid_of(link))._link
    assert one_reply is not None

    def objects() -> list[str]:
        tree = one_reply.PullMessages(None).message_object_trees[0]
        return [part.object_id for part in iterate_object_tree(tree)]

    given_up, pull, on_its_way, goes_on = objects(), link.PullObject, Event(), Event()

    def slow(request: PullObjectRequest) -> PullObjectResponse:
        if request.object_id in given_up:
            on_its_way.set()
            assert goes_on.wait(10)
        return pull(request)

    link.PullObject = slow  # type: ignore[method-assign]
    largest = max(given_up, key=lambda name: len(link._objects[name]))
    late = Thread(target=one_reply.PullObject, args=[PullObjectRequest(object_id=largest)])
    if not asked_late:
        late.start()
        assert on_its_way.wait(10)
    second = objects()
    goes_on.set()
    if asked_late:
        late.start()
    late.join()
    assert (link.received > 0) is not asked_late  # what is asked late is not asked for
    for name in second:
        assert one_reply.PullObject(PullObjectRequest(object_id=name)).object_found
    assert one_reply.reply.bytes == sum(len(link._objects[name]) for name in second)


@pytest.mark.usefixtures("small")
def test_the_limit_grows_with_what_was_sent() -> None:
    limit, replies, _ = replies_of(40, sent=10**6)
    assert limit.largest == 50 * 10**6
    assert not replies[0].has_error()


@pytest.mark.usefixtures("small")
def test_a_single_piece_may_not_be_larger_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 10**9)  # the sender's own
    _, replies, _ = replies_of(12, 60)
    assert [reply.has_error() for reply in replies] == [False, True]


@pytest.mark.usefixtures("small")
def test_pieces_that_are_named_again_count_again() -> None:
    _, replies, received = replies_of(link=Link(100, 15, zeros=True))
    assert received < 50 * 10**6  # of a hundred megabytes of zeros one piece is sent
    assert [reply.has_error() for reply in replies] == [True, False]
    assert replies[0].error.reason == "it sent more than 20 MB, which no reply may have"


def received_in_order(link: Link, *first: bytes) -> _Received:
    """What is counted of the first reply, objects of these types first; and once before, when nothing is there yet."""
    one_reply = LimitedReplies(grid_of(link))._link
    assert one_reply is not None
    names = [part.object_id for part in iterate_object_tree(one_reply.PullMessages(None).message_object_trees[0])]
    pull = link.PullObject
    link.PullObject = lambda request: PullObjectResponse(object_found=True)  # type: ignore[method-assign]
    for name in names:
        one_reply.PullObject(PullObjectRequest(object_id=name))
    link.PullObject = pull  # type: ignore[method-assign]
    for name in sorted(names, key=lambda name: not link._objects[name].startswith(first)):
        one_reply.PullObject(PullObjectRequest(object_id=name))
    return one_reply.reply


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("first", [b"Array ", b"ArrayChunk "], ids=["array first", "pieces first"])
@pytest.mark.parametrize("piece", [PIECE, 10**9], ids=["pieces of Flower's", "a single piece"])
def test_pieces_count_as_often_as_they_are_named_whenever_they_come(
    piece: int, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", piece)
    link = Link(2, zeros=True)
    assert received_in_order(link, first).bytes == link.received < 2.1e6
    link = Link(2, zeros=True)
    link.name_again(0, 4)
    pieces = [content for content in link._objects.values() if content.startswith(b"ArrayChunk ")]
    assert received_in_order(link, first).bytes == link.received + 4 * len(pieces[0])
    assert len(pieces[0]) >= 2 * 10**6


@pytest.mark.usefixtures("small")
def test_a_list_of_pieces_that_is_long_by_itself_is_not_read() -> None:
    link = Link(1)
    link.name_again(0, 500_000)
    _, replies, _ = replies_of(link=link)
    assert replies[0].error.reason == "it sent more than 20 MB, which no reply may have"


@pytest.mark.usefixtures("small")
def test_an_array_of_many_names_counts_for_each() -> None:
    _, replies, received = replies_of(link=Link(5, 15, names=3))
    assert received < 25 * 10**6
    assert [reply.has_error() for reply in replies] == [False, True]
    assert set(replies[0].content.array_records["arrays"]) == {"w", "w1", "w2"}


@pytest.mark.usefixtures("small")
def test_who_answers_what_is_the_superlinks_word() -> None:
    """A device that puts the id of somebody else's message into its reply has failed, and the other's arrives."""
    link = Link(1, 2)
    link.forge(1, "m0")
    _, replies, _ = replies_of(link=link)
    assert [reply.metadata.reply_to_message_id for reply in replies] == ["m1", "m0"]
    assert replies[0].error.reason == "it sent an answer to another message"
    assert replies[1].content.array_records["arrays"]["w"].numpy().nbytes == 10**6


@pytest.mark.usefixtures("small")
def test_equal_replies_are_counted_for_themselves() -> None:
    _, replies, _ = replies_of(link=Link(15, 15, 15, 15, seed=0))
    assert not any(reply.has_error() for reply in replies)


@pytest.mark.usefixtures("small")
def test_one_that_flower_cannot_put_together_is_an_error_and_the_others_arrive() -> None:
    link = Link(1, 2, 3)
    link.break_array(1)
    _, replies, _ = replies_of(link=link)
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].metadata.reply_to_message_id == "m1"
    assert replies[1].error.reason.startswith("it sent what cannot be read (IndexError")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [RuntimeError("no run"), httpx.ConnectError("gone")])
def test_what_is_no_fault_of_a_reply_ends_the_run(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(1)

    def fails(request: object) -> object:
        raise error

    monkeypatch.setattr(link, "PullMessages", fails)
    with pytest.raises(type(error), match=str(error)):
        replies_of(link=link)
