"""Messages to nodes that die, are silent, or come back before they have answered."""

import time
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.packing import PACKED, Packer, unpacked
from fedsim.messages.schema import ARRAYS, PACKED_REPLY, TRAIN, arrays_of, config_of, message
from tests.fedsim.deployment.nodes import Clock, ask, device, grid_of, node_that_answered

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


@pytest.mark.parametrize("timeout", [None, 3000])
def test_whose_answer_is_missing_is_said_at_longer_and_longer_intervals(
    timeout: float | None, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(0, 1, 2, timeout=timeout)
    behind.silent.add(102)

    def time_passes() -> list[int]:
        if clock.now > started + 2000:
            behind.silent.clear()
        return list(behind.nodes)

    started = clock.now
    behind.get_node_ids = time_passes  # type: ignore[method-assign]
    assert not any(reply.has_error() for reply in ask(grid, range(3)))
    lines = [record.getMessage() for record in caplog.records]
    limit = " of round_timeout=3000" if timeout else ""
    assert lines[0] == f"waiting for 61{limit} seconds for client 2 (node 102)"
    assert [int(line.split()[2]) for line in lines] == [61, 121, 241, 481, 781, 1081, 1381, 1681, 1981]


def test_who_could_be_a_client_without_a_node_is_named_while_it_is_waited_for(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a limit a node that never says who it is keeps a round waiting for ever."""
    behind, grid = grid_of(0, 1, 2, join_timeout=None)
    behind.nodes = {100: device(0), 102: device(2), 9: device(1)}
    behind.silent.add(9)

    def time_passes() -> list[int]:
        if clock.now > started + 400:
            behind.silent.clear()
        return list(behind.nodes)

    started = clock.now
    behind.get_node_ids = time_passes  # type: ignore[method-assign]
    assert not any(reply.has_error() for reply in ask(grid, range(3)))
    assert "waiting for 61 seconds for client 1 (no node); node 9 is online, was asked 61 seconds ago" in caplog.text


def test_of_many_missing_answers_the_first_are_named(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    behind, grid = grid_of(*range(15), timeout=100, clients=15)
    behind.silent = set(behind.nodes)
    ask(grid, range(15))
    assert "client 9 (node 109) and 5 more" in caplog.text


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


def test_arrays_travel_packed_and_one_who_sends_nonsense_is_an_error() -> None:
    behind, grid = grid_of(0, 1, 2)
    model = to_record({"w": torch.arange(3.0), "b": torch.ones(1)})
    behind.arrays[100] = Packer()(RecordDict({ARRAYS: to_record({"w": torch.ones(3), "b": torch.zeros(1)})}))[ARRAYS]
    nonsense = Array(dtype="uint8", shape=(3,), stype=PACKED, data=b"abc")
    behind.arrays[101] = ArrayRecord()
    behind.arrays[101][PACKED] = nonsense
    replies = list(grid.send_and_receive([message(TRAIN, client, model) for client in range(3)]))
    sent = [each for each in behind.received if each.metadata.message_type == TRAIN]
    assert len({id(arrays_of(each)) for each in sent}) == 1  # packed once for all
    assert list(arrays_of(sent[0])) == [PACKED]
    assert to_tensors(unpacked(sent[0].content).array_records[ARRAYS])["w"].tolist() == [0, 1, 2]
    assert all(config_of(each)[PACKED_REPLY] for each in sent)
    assert to_tensors(arrays_of(replies[0]))["w"].tolist() == [1, 1, 1]
    assert replies[1].error.reason == (
        "it sent what cannot be read (no packed arrays: Error while deserializing: header too small)"
    )
    assert node_that_answered(replies[2]) == 102
