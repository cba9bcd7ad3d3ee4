"""A record that travels once to each client, and again when it has changed or a client may have lost it."""

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import CONFIG, TRAIN
from fedsim.methods.cached_broadcast import CachedBroadcast


@pytest.fixture(autouse=True)
def sender() -> None:
    InlineGrid(lambda device: None, 1, [torch.device("cpu")])  # type: ignore[arg-type,return-value]


def messages(*clients: int) -> list[Message]:
    """To each client one, with a content that they share."""
    content = RecordDict({CONFIG: ConfigRecord({"server-round": 1})})
    return [Message(content, client, TRAIN) for client in clients]


def broadcast(name: str = "masks", value: float = 1.0) -> CachedBroadcast:
    made = CachedBroadcast(name)
    made.change(to_record({"layer": torch.tensor([value])}))
    return made


def brought(sent: list[Message]) -> dict[int, list[str]]:
    """What each client is brought beside the config."""
    return {each.metadata.dst_node_id: [name for name in each.content if name != CONFIG] for each in sent}


def test_it_is_brought_until_the_client_has_answered() -> None:
    masks = broadcast()
    assert brought(masks.attach(messages(0, 1))) == {0: ["cached/masks"], 1: ["cached/masks"]}
    masks.answered(0)
    assert brought(masks.attach(messages(0, 1))) == {0: [], 1: ["cached/masks"]}
    # Client 0 was asked again and has not answered: it may have lost what it had.
    assert brought(masks.attach(messages(0))) == {0: ["cached/masks"]}


def test_another_one_is_brought_to_all() -> None:
    masks = broadcast()
    masks.answered(0)
    masks.change(to_record({"layer": torch.tensor([2.0])}))
    (sent,) = masks.attach(messages(0))
    assert sent.content["cached/masks"] is masks.record


def test_evaluation_brings_it_to_all_and_nobody_holds_it_then() -> None:
    masks = broadcast()
    masks.answered(0)
    sent = masks.attach_to_all(messages(0, 1))
    assert brought(sent) == {0: ["cached/masks"], 1: ["cached/masks"]}
    assert masks.holders == {0}


def test_those_who_share_a_content_share_it_afterwards() -> None:
    masks = broadcast()
    masks.answered(3)
    first, second, third, holder = masks.attach([*messages(0, 1), *messages(2), *messages(3)])
    assert first.content is second.content
    assert first.content is not third.content
    assert CONFIG in holder.content
    assert masks.attach([]) == []


def test_of_two_each_client_is_brought_what_it_lacks() -> None:
    masks, entries = broadcast(), broadcast("entries")
    masks.answered(0)
    entries.answered(1)
    sent = entries.attach(masks.attach(messages(0, 1, 2)))
    assert brought(sent) == {0: ["cached/entries"], 1: ["cached/masks"], 2: ["cached/masks", "cached/entries"]}


def test_a_checkpoint_has_it_and_who_holds_it() -> None:
    masks, again = broadcast(), CachedBroadcast("masks")
    masks.answered(2)
    masks.answered(11)
    again.load_state(masks.state())
    assert again.record == masks.record
    assert again.holders == {2, 11}
