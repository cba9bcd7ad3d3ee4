"""Which node plays which client, while nodes come, go, and say or do not say who they are."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsim.deployment import node_registry
from fedsim.deployment.devices.node import NodeConfig
from fedsim.deployment.node_registry import NodeRegistry
from fedsim.deployment.partition_grid import PartitionGrid
from fedsim.deployment.reply_limit import LimitedReplies
from fedsim.messages.schema import CONFIG, TRAIN, message
from tests.fedsim.deployment.nodes import Clock, FlowersGrid, ask, device, grid_of, node_that_answered

pytestmark = pytest.mark.usefixtures("impatient")


def test_of_two_that_claim_a_client_the_one_that_came_first_plays_it(caplog: pytest.LogCaptureFixture) -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.nodes[42] = device(1)
    for _ in range(3):
        assert node_that_answered(ask(grid, [1])[0]) == 101
    assert caplog.text.count("nodes 101 and 42 both say they play client 1: 101 does") == 1
    del behind.nodes[101]
    assert node_that_answered(ask(grid, [1])[0]) == 42
    behind.nodes[101] = device(1)
    grid.refresh()
    grid.refresh()
    assert node_that_answered(ask(grid, [1])[0]) == 42


def test_a_node_that_comes_back_under_another_number_plays_once_the_old_one_is_noticed_dead() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.nodes[42] = device(1)
    grid.refresh()
    grid.refresh()
    assert grid.node_of(1) == 101
    behind.dying.add(101)  # the messages to it are answered so, and until then it is among those that are there
    replies = ask(grid, range(3))
    assert [node_that_answered(reply) for reply in replies] == [100, 42, 102]


def test_who_says_it_is_simulated_plays_nothing_among_devices(caplog: pytest.LogCaptureFixture) -> None:
    behind = FlowersGrid()
    behind.nodes = {7: device(0, num_partitions=1), 101: device(1)}
    grid = PartitionGrid(behind, 2, join_timeout=0.3)
    assert [grid.node_of(0), grid.node_of(1)] == [None, 101]
    assert grid.folds_evaluation
    assert caplog.text.count("node 7 is left out: it says it is simulated, and others are devices") == 1
    del behind.nodes[101]
    assert all(reply.has_error() for reply in ask(grid, range(2)))
    assert grid.folds_evaluation


def test_a_device_that_says_it_plays_several_clients_plays_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(1, 2)
    told = NodeConfig.of(device(0)).profile().told()
    told["num_partitions"] = 1
    monkeypatch.setattr(behind, "_answer", lambda node, sent: RecordDict({CONFIG: told}))
    behind.nodes[9] = device(0)
    grid.refresh()
    grid.refresh()
    assert sorted(grid.nodes) == [1, 2]
    assert "node 9 is left out for now: it is a device, and says it plays several clients" in caplog.text


@pytest.mark.parametrize(
    "content",
    [RecordDict(), RecordDict({CONFIG: MetricRecord({"partition": 0})}), RecordDict({CONFIG: ConfigRecord()})],
)
def test_an_answer_of_another_form_leaves_a_node_out(
    content: RecordDict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(1, 2)
    monkeypatch.setattr(behind, "_answer", lambda node, sent: content)
    behind.nodes[100] = device(0)
    grid.refresh()
    grid.refresh()
    assert sorted(grid.nodes) == [1, 2]
    assert "node 100 is left out for now: it does not say who it is" in caplog.text


def test_a_node_that_cannot_say_who_it_is_is_asked_again_less_and_less_often(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(0, 1)
    behind.nodes[102] = device(2)
    behind.failing[102] = "<class 'fedsim.core.errors.UserError'>:<'there are no images.'>"
    asked_at = []
    for second in range(0, 600, 3):
        clock.sleep(3)
        before = behind.asked(102)
        grid.refresh()
        asked_at += [second] * (behind.asked(102) - before)
    assert asked_at == [0, 63, 186, 429]  # 60, 120 and 240 seconds after each answer, which came 3 after the question
    assert caplog.text.count("node 102 is left out for now: there are no images.") == 1
    behind.failing.clear()
    clock.sleep(480)
    grid.refresh()
    grid.refresh()
    assert grid.node_of(2) == 102


def test_a_silent_node_holds_up_neither_the_others_nor_the_timeout(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(0, 1, timeout=30, join_timeout=200)
    behind.nodes[102] = device(2)
    behind.silent.add(102)

    def waits(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("send_and_receive waits for the slowest")

    monkeypatch.setattr(behind, "send_and_receive", waits)
    started = clock.now
    replies = ask(grid, range(3))
    assert clock.now - started <= 32
    assert [reply.has_error() for reply in replies] == [False, False, True]
    for _ in range(100):
        clock.sleep(3)
        grid.refresh()
    assert behind.asked(102) == 1  # another question would be another process on a device that is busy
    for _ in range(200):
        clock.sleep(3)
        grid.refresh()
    late = "node 102 is left out for now: it is online, and has not answered within 200 seconds"
    assert caplog.text.count(late) == 1
    assert behind.asked(102) == 3  # after 0, 360 and 780 seconds
    behind.silent.clear()  # however late
    grid.refresh()
    assert grid.node_of(2) == 102


def test_who_comes_back_is_asked_anew_since_it_may_be_another_client() -> None:
    behind, grid = grid_of(0, 1)
    del behind.nodes[101]
    grid.refresh()
    behind.nodes[101] = device(2)
    grid.refresh()
    grid.refresh()
    assert [grid.node_of(1), grid.node_of(2)] == [None, 101]
    assert behind.asked(101) == 2
    assert behind.asked(100) == 1


def test_a_dead_node_is_waited_for_once_and_not_in_every_exchange(clock: Clock) -> None:
    behind, grid = grid_of(0, 1, 2, join_timeout=60)
    behind.dying.add(101)
    started = clock.now
    assert ask(grid, [1])[0].has_error()
    assert 120 < clock.now - started < 130
    waited = clock.now
    for _ in range(20):
        assert [reply.has_error() for reply in ask(grid, range(3))] == [False, True, False]
    assert clock.now - waited < 60  # a second for the answers of the others
    behind.nodes[101] = device(1)
    assert node_that_answered(ask(grid, [1])[0]) == 101
    behind.dying.add(101)  # waited for once more
    replies = grid.send_and_receive([message(TRAIN, client, None) for client in range(3)])
    next(replies)
    clock.sleep(100)
    behind.nodes[101] = device(1)
    assert node_that_answered(next(replies)) == 101


def test_the_seconds_that_a_client_is_away_count_across_exchanges(clock: Clock) -> None:
    behind, grid = grid_of(0, 1, 2, timeout=50)
    del behind.nodes[101]
    reasons = []
    for _ in range(4):
        (reply,) = ask(grid, [1])
        reasons.append(reply.error.reason)
    late = "it has not answered within round_timeout=50 seconds"
    assert reasons == [late, late, *["no node plays it, and none came within 120 seconds"] * 2]


def test_who_is_online_and_has_not_said_who_it_is_is_waited_for_and_named(clock: Clock) -> None:
    """A device that came back in the middle of a run and is slow to answer; for ``join_timeout`` and once."""
    behind, grid = grid_of(0, 1, 2, join_timeout=400)
    del behind.nodes[102]
    grid.refresh()
    clock.sleep(121)
    behind.nodes[102] = device(2)
    behind.silent.add(102)
    replies = grid.send_and_receive([message(TRAIN, client, None) for client in range(3)])
    assert [node_that_answered(next(replies)) for _ in range(2)] == [100, 101]
    clock.sleep(300)
    behind.silent.clear()
    assert node_that_answered(next(replies)) == 102
    del behind.nodes[102]
    grid.refresh()
    clock.sleep(121)
    behind.nodes[102] = device(2)
    behind.silent.add(102)
    started = clock.now
    reason = ask(grid, [2])[0].error.reason
    assert 400 < clock.now - started < 410
    assert reason.startswith("no node plays it, and none came within 120 seconds; node 102 is online, was asked 40")
    started = clock.now
    assert ask(grid, [2])[0].has_error()
    assert clock.now - started < 5


def test_who_joins_over_and_over_is_asked_so_many_times_at_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_registry, "ASKED_AT_ONCE", 3)
    behind = FlowersGrid()
    behind.nodes = {number: device(0) for number in range(50)}
    behind.silent = set(behind.nodes)
    roll = NodeRegistry(behind, LimitedReplies(behind), range(1))
    for _ in range(5):
        roll.refresh()
    assert [each.metadata.dst_node_id for each in behind.received] == [0, 1, 2]
    behind.silent -= {0, 1}
    roll.refresh()
    assert roll.node_of(0) == 0
    assert [each.metadata.dst_node_id for each in behind.received] == [0, 1, 2, 3, 4]
    clock.sleep(node_registry.QUERY_TIMEOUT + 1)  # those who do not answer hold up nobody for longer
    roll.refresh()
    assert [each.metadata.dst_node_id for each in behind.received[5:]] == [5, 6, 7]  # before those asked once
    for _ in range(3):
        roll.refresh()
    assert len(behind.received) == 8
