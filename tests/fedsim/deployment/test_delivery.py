"""Messages to nodes that die, are silent, or come back before they have answered."""

import time
from typing import Any

import pytest

from fedsim.messages.schema import TRAIN, message
from tests.fedsim.deployment.nodes import ask, device, grid_of, node_that_answered

pytestmark = pytest.mark.usefixtures("impatient")


def test_what_a_dead_node_had_not_answered_is_sent_again_when_it_is_back() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.dying.add(101)
    replies = grid.send_and_receive([message(TRAIN, client, None) for client in range(3)])
    assert node_that_answered(next(replies)) == 100
    behind.nodes[555] = device(1)  # under another number, as without keys
    assert [node_that_answered(reply) for reply in replies] == [555, 102]


def test_a_node_that_stays_away_is_an_error_after_a_while_and_may_come_back_later() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.dying.add(101)
    replies = ask(grid, range(3))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "no node plays it, and none came within" in str(replies[1].error.reason)
    assert replies[1].metadata.src_node_id == 1
    behind.nodes[101] = device(1)
    assert not any(reply.has_error() for reply in ask(grid, range(3)))


def test_a_silent_node_is_an_error_after_the_timeout() -> None:
    behind, grid = grid_of(0, 1, 2, timeout=0.2)
    behind.silent.add(102)
    started = time.monotonic()
    replies = ask(grid, range(3))
    assert time.monotonic() - started < 5
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert replies[2].error.reason == "it has not answered within round_timeout=0.2 seconds"


def test_who_dies_again_and_again_is_given_up() -> None:
    behind, grid = grid_of(0, 1, 2)

    class Mortal(set[int]):
        def __contains__(self, node: object) -> bool:
            return node == 101

    behind.dying = Mortal()
    kept = behind.nodes

    class Returning(dict[int, dict[str, Any]]):
        def pop(self, node: int, default: Any = None) -> Any:  # type: ignore[override]
            return default

    behind.nodes = Returning(kept)
    assert "it was asked 5 times" in str(ask(grid, [1])[0].error.reason)
