"""A reply of more bytes than any has is not received whole, by Flower's own grid."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedsim.deployment import reply_limit
from fedsim.deployment.reply_limit import ReplyLimit
from fedsim.messages.schema import TRAIN, message

PIECE = 5_242_880
"""Bytes of an array that Flower sends at once"""


class Link:
    """What a SuperLink answers: replies to messages ``m0``, ``m1``, ..., of so many megabytes."""

    def __init__(self, *megabytes: int) -> None:
        self.received = 0
        self._objects: dict[str, bytes] = {}
        self._response = PullAppMessagesResponse()
        for number, size in enumerate(megabytes):
            sent = message(TRAIN, number, None)
            sent.metadata.__dict__["_message_id"] = f"m{number}"
            record = ArrayRecord()
            record["w"] = Array(np.random.default_rng(number).integers(0, 255, size * 10**6, np.uint8))
            reply = Message(RecordDict({"arrays": record}), reply_to=sent)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self._objects |= {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
            self._response.message_object_trees.append(get_object_tree(reply))
            self._response.messages_list.append(message_to_proto(remove_content_from_message(reply)))

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802 (Flower's name)
        return self._response

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802 (Flower's name)
        content = self._objects[request.object_id]
        self.received += len(content)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: object) -> None: ...  # noqa: N802 (Flower's name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setattr(reply_limit, "ALWAYS", 20_000_000)


def replies_of(*megabytes: int, sent: int = 0) -> tuple[ReplyLimit, list[Message], int]:
    grid, link = HttpGrid(token="t"), Link(*megabytes)
    grid.set_run(Run.create_empty(run_id=1))
    grid._client = link
    limit = ReplyLimit(grid)
    limit.sent(sent)
    return limit, list(grid.pull_messages([f"m{number}" for number in range(len(megabytes))])), link.received


@pytest.mark.usefixtures("small")
def test_one_that_is_too_large_is_refused_and_the_others_arrive() -> None:
    limit, replies, received = replies_of(12, 300, 15)
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[2].content.array_records["arrays"]["w"].numpy().nbytes == 15 * 10**6
    assert [limit.fault(f"m{number}") for number in range(3)] == [
        None,
        "it sent more than 20 MB, which no reply may have",
        None,
    ]
    assert received < (12 + 15 + 20) * 10**6 + 32 * PIECE  # of the large one no more than what was under way


@pytest.mark.usefixtures("small")
def test_the_limit_grows_with_what_was_sent() -> None:
    limit, replies, _ = replies_of(40, sent=10**6)
    assert limit.largest == 50 * 10**6
    assert not replies[0].has_error()
    assert limit.fault("m0") is None
