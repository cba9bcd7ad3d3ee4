"""How far a reply may move a number: up to the limit, and no further."""

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.messages.arrays import to_record
from fedsim.messages.schema import ARRAYS, CONFIG, MOVED_ENTRIES, ROUND
from fedsim.methods.reply_checks import ReplyChecks
from tests.fedsim.server.replies import IMAGES, SENT, fault, trained

HEAD, SEEN = "head.weight", "seen"
MOST = 1000 * 2.0
"""How far a weight may move: the limit, times the largest weight that was sent"""


def test_a_reply_from_another_device_is_not_compared_at_once(checks: ReplyChecks) -> None:
    """torch would refuse to, and with it each reply of a client on a GPU; numbers on ``meta`` stand for those."""
    content = RecordDict({CONFIG: ConfigRecord({ROUND: 4}), ARRAYS: to_record(SENT)})
    assert checks._within_limits(content, SENT, SENT, IMAGES)
    there = {name: tensor.to("meta") for name, tensor in SENT.items()}
    assert not checks._within_limits(content, SENT, there, IMAGES)


@pytest.mark.parametrize("moved", [(), (HEAD,)], ids=["in place", "at other places"])
@pytest.mark.parametrize(
    ("name", "numbers", "bad"),
    [
        (HEAD, [[0.5 + MOST, -2.0]], False),
        (HEAD, [[0.5, -2.0 - MOST]], False),
        (HEAD, [[0.5, -MOST - 3]], True),
        (HEAD, [[MOST + 3, -2.0]], True),
        (SEEN, 3, False),
        (SEEN, 3 + 1000 * IMAGES, False),
        (SEEN, 4 + 1000 * IMAGES, True),
        (SEEN, 2, True),
    ],
)
def test_a_number_may_move_as_far_as_the_limit(
    checks: ReplyChecks, name: str, numbers: object, bad: bool, moved: tuple[str, ...]
) -> None:
    """Where the weights of an entry lie at other places, the distance is at least its size less the largest sent."""
    sent = torch.tensor(numbers, dtype=SENT[name].dtype)
    found = fault(checks, trained({name: sent}), **({MOVED_ENTRIES: list(moved)} if moved else {}))
    assert (found is not None) == bad
    assert found is None or f"it moved a number in {name} by " in found
    checks.update_limit = None
    assert fault(checks, trained({name: sent})) is None


def test_the_limit_is_of_one_at_least(checks: ReplyChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SENT, HEAD, torch.tensor([[0.0, 0.25]]))
    assert fault(checks, trained({HEAD: torch.tensor([[1000.0, 0.25]])})) is None
    assert fault(checks, trained({HEAD: torch.tensor([[1000.5, 0.25]])})) is not None


def test_each_round_is_compared_with_what_it_sent(checks: ReplyChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    far = torch.tensor([[5000.0, -2.0]])
    assert fault(checks, trained({HEAD: far})) is not None
    monkeypatch.setitem(SENT, HEAD, far)
    assert fault(checks, trained()) is None
    assert fault(checks, trained({HEAD: torch.tensor([[0.5, -2.0]])})) is None


@pytest.mark.parametrize(
    "other",
    [torch.ones(2, dtype=torch.half), torch.tensor([1, 2]), torch.tensor(1, dtype=torch.int32), torch.zeros(0)],
    ids=["another type", "a row of counters", "another type of counter", "nothing"],
)
def test_whatever_else_travels_every_number_is_looked_at(
    checks: ReplyChecks, other: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All entries are compared at once where they are alike, and one by one where they are not."""
    head = SENT[HEAD]
    monkeypatch.delitem(SENT, HEAD)
    monkeypatch.setitem(SENT, "other", other)  # before the head
    monkeypatch.setitem(SENT, HEAD, head)
    assert fault(checks, trained()) is None
    assert fault(checks, trained({HEAD: torch.tensor([[0.5, -1.0]]), SEEN: torch.tensor(4)})) is None
    for wrong in (torch.tensor([[0.5, float("nan")]]), torch.tensor([[0.5, -MOST - 3]])):
        assert fault(checks, trained({HEAD: wrong})) is not None
    assert fault(checks, trained({SEEN: torch.tensor(2)})) is not None
    if other.numel() and not other.is_floating_point():
        assert fault(checks, trained({"other": other - 1})) is not None
    elif other.numel():
        assert fault(checks, trained({"other": torch.full_like(other, float("inf"))})) is not None
