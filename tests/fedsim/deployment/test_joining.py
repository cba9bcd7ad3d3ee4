"""The beginning of a run on nodes: who is waited for, for how long, and what is said of it."""

import pytest
from flwr.app import Message, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.deployment.joining import named
from fedsim.deployment.partition_grid import PartitionGrid
from fedsim.messages.schema import CONFIG
from tests.fedsim.deployment.nodes import Clock, FlowersGrid, device, grid_of

pytestmark = pytest.mark.usefixtures("impatient")


class Starting(FlowersGrid):
    """Devices that come online, and answer, at a time of their own."""

    def __init__(self, clock: Clock, *, online: dict[int, float], answers: dict[int, float] | None = None) -> None:
        super().__init__()
        self.clock, self.online, self.answers = clock, online, answers or {}
        self.started = clock.now

    def get_node_ids(self) -> list[int]:
        now = self.clock.now - self.started
        self.nodes = {100 + each: device(each) for each, seconds in self.online.items() if now >= seconds}
        self.silent = {100 + each for each, seconds in self.answers.items() if now < seconds}
        return list(self.nodes)


def test_a_run_starts_with_those_that_are_there_but_not_with_none(caplog: pytest.LogCaptureFixture) -> None:
    _, grid = grid_of(0, 2)
    assert "no node plays the client 1 after join_timeout=0.3 seconds; they may still join" in caplog.text
    assert sorted(grid.nodes) == [0, 2]
    with pytest.raises(FedsimError, match=r"no node of this federation has connected within join_timeout=0.3 seconds:"):
        grid_of()
    grid_of(0, 1, 2, 9)
    assert "there is no client 9" in caplog.text


@pytest.mark.parametrize("slow", [61.0, 150.0, 590.0])
def test_a_device_may_take_minutes_for_its_first_answer(
    slow: float, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Starting(clock, online={0: 0, 1: 5}, answers={1: slow})
    grid = PartitionGrid(behind, 2, join_timeout=600)
    assert sorted(grid.nodes) == [0, 1]
    assert slow <= clock.now - behind.started < slow + 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("waiting for 15 of join_timeout=600 seconds for client 1; node 101 is online, was asked")
    assert lines[0].endswith(" 10 seconds ago and has not answered yet")
    assert len(lines) == sum(slow > word for word in (15, 30, 60, 120, 240, 480))
    assert not any("left out" in line for line in lines)


def test_who_is_not_online_is_named_apart_from_who_is_and_has_not_answered(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Starting(clock, online={0: 0, 1: 0}, answers={1: 1000})
    grid = PartitionGrid(behind, 4, join_timeout=40)
    assert sorted(grid.nodes) == [0]
    lines = [record.getMessage() for record in caplog.records]
    assert "for clients 1, 2, 3; node 101 is online" in lines[0]
    last = (
        "no node plays the clients 1, 2, 3 after join_timeout=40 seconds; they may still join; node 101 is online, was"
    )
    assert last in lines[-1]


def test_without_a_limit_it_takes_as_long_as_it_takes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    behind = Starting(clock, online={0: 0, 1: 20_000}, answers={0: 5000})
    grid = PartitionGrid(behind, 2, join_timeout=None)
    assert sorted(grid.nodes) == [0, 1]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("waiting for 15 seconds for clients 0, 1; node 100 is online")
    assert lines[-1].endswith("seconds for client 1; no other node is online")
    assert 60 < len(lines) < 80  # one in five minutes


def test_why_a_node_cannot_say_who_it_is_is_said(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    behind = FlowersGrid()
    behind.nodes = {7: device(0)}
    behind.failing[7] = "<class 'fedsim.core.errors.UserError'>:<'there are no images.'>"
    why = "node 7 is online and cannot say which client it plays: there are no images."
    with pytest.raises(FedsimError, match=f"has said which client it plays within join_timeout=600 seconds; {why}"):
        PartitionGrid(behind, 1, join_timeout=600)
    assert f"waiting for 15 of join_timeout=600 seconds for client 0; {why}" in caplog.text


def test_one_that_plays_an_impossible_client_does_not_end_a_run_of_an_open_set(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind = FlowersGrid()
    behind.nodes = {100: device(0), 101: device(1), 9: device(0)}
    honest = behind._answer

    def answer(node: int, sent: Message) -> RecordDict:
        told = honest(node, sent)
        if node == 9:
            told.config_records[CONFIG]["partition"] = -1
        return told

    behind._answer = answer  # type: ignore[method-assign]
    grid = PartitionGrid(behind, None, join_timeout=600)
    assert sorted(grid.nodes) == [0, 1]
    assert "node 9 is left out for now: it does not say who it is (partition=-1)" in caplog.text


def test_where_it_is_open_who_takes_part_all_that_are_online_do(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    behind = Starting(clock, online={0: 0, 1: 8, 2: 16}, answers={1: 200})
    grid = PartitionGrid(behind, None, join_timeout=600)
    assert grid.get_node_ids() == [0, 1, 2]
    assert 200 <= clock.now - behind.started < 212
    assert "3 devices take part, all that have joined" in caplog.text
    behind.online[3] = 0
    grid.refresh()
    grid.refresh()
    assert grid.get_node_ids() == [0, 1, 2]
    assert "node 103 is left out: there is no client 3" in caplog.text


def test_a_gap_between_the_numbers_is_waited_for_and_then_an_error(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Starting(clock, online={0: 0, 2: 0, 1: 100})
    assert PartitionGrid(behind, None, join_timeout=600).get_node_ids() == [0, 1, 2]
    assert 110 <= clock.now - behind.started < 112
    assert "for client 1; no other node is online" in caplog.text
    with pytest.raises(FedsimError, match=r"partition-id=1000000000, but none has joined within .* 1, 2, 3"):
        PartitionGrid(Starting(clock, online={0: 0, 10**9: 0}), None, join_timeout=60)


def test_a_device_that_never_answers_does_not_keep_the_others_for_ever(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Starting(clock, online={0: 0, 1: 0}, answers={1: 10_000})
    grid = PartitionGrid(behind, None, join_timeout=90)
    assert grid.get_node_ids() == [0]
    assert "1 device takes part, all that have joined; node 101 is online, was asked 90 seconds ago" in caplog.text
    with pytest.raises(FedsimError, match="no node of this federation has connected within join_timeout=90 seconds"):
        PartitionGrid(Starting(clock, online={}), None, join_timeout=90)


def test_many_clients_are_not_all_named() -> None:
    assert named([3]) == "client 3"
    assert named(range(12)) == "clients 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
