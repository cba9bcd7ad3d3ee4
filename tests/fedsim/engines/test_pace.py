"""How many clients engines send a worker at once, and how early."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsim.engines.grid import SERVER_NODE
from fedsim.engines.pace import AHEAD, AT_WORKER, MOST_AT_ONCE, QUICK, WORTH_ADDING_UP, WORTH_SENDING, Pace
from fedsim.messages.groups import ADD_UP, GROUP_SIZE

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE  # as a grid does it
TRAIN = Message(RecordDict(), 0, "train")
ADDS_UP = Message(RecordDict({"config": ConfigRecord({ADD_UP: "uniform"})}), 0, "train")


def paced(seconds: float, *, early: bool = True) -> Pace:
    pace = Pace(early=early)
    pace.note(TRAIN, seconds)
    return pace


@pytest.mark.parametrize(
    ("seconds", "at_once"),
    [(1e-9, MOST_AT_ONCE), (WORTH_SENDING / 5, 5), (WORTH_SENDING / 1.9, 1), (10 * WORTH_SENDING, 1)],
)
def test_as_many_are_sent_as_are_worth_a_message(seconds: float, at_once: int) -> None:
    assert paced(seconds).at_once(TRAIN, 1000, 2) == at_once


def test_of_clients_of_which_nothing_is_known_each_is_sent_alone() -> None:
    pace = paced(WORTH_SENDING / 5)
    evaluate = Message(RecordDict(), 0, "evaluate")
    assert (pace.at_once(evaluate, 1000, 2), pace.batches(evaluate, 1000, 2), pace.ahead(evaluate, 2)) == (1, 1, 4)


def test_slow_clients_are_noted_at_once_and_quick_ones_by_halves() -> None:
    pace = paced(WORTH_SENDING / 10)
    pace.note(TRAIN, 10 * WORTH_SENDING)
    assert pace.at_once(TRAIN, 1000, 2) == 1
    for _ in range(6):  # 10 / 2^6 < 1 / 6
        pace.note(TRAIN, 0.0)
    assert pace.at_once(TRAIN, 1000, 2) == 6


def test_fewer_are_sent_at_the_end() -> None:
    assert [paced(1e-9).at_once(TRAIN, left, 2) for left in (1000, 100, 40, 8, 5, 1)] == [32, 25, 10, 2, 1, 1]


def test_groups_are_sent_whole_where_there_are_two_for_each_worker() -> None:
    """Also of clients that would be sent alone; not if a group takes too long, or some worker would go without."""
    each = WORTH_ADDING_UP / GROUP_SIZE
    assert [paced(0.99 * each).at_once(ADDS_UP, left, 2) for left in (60, 16, 15, 5, 1)] == [4, 4, 3, 1, 1]
    assert paced(0.99 * each).at_once(TRAIN, 60, 2) < GROUP_SIZE
    assert paced(1.01 * each).at_once(ADDS_UP, 60, 2) == 1


def test_workers_have_the_next_quick_clients_early_but_for_the_last_ones() -> None:
    quick, slow = paced(QUICK), paced(1.01 * QUICK)
    assert [quick.batches(TRAIN, left, 3) for left in (1000, 4, 3, 1)] == [AT_WORKER, AT_WORKER, 1, 1]
    assert slow.batches(TRAIN, 1000, 3) == paced(QUICK, early=False).batches(TRAIN, 1000, 3) == 1
    assert paced(0.99 * WORTH_ADDING_UP / GROUP_SIZE).batches(ADDS_UP, 1000, 3) == AT_WORKER


def test_the_replies_that_wait_are_bounded() -> None:
    """By what all workers are sent at once: of slow clients twice, of quick ones once more; also at the end."""
    assert paced(10 * QUICK).ahead(TRAIN, 3) == AHEAD * 3
    assert paced(WORTH_SENDING / 5).ahead(TRAIN, 3) == (AHEAD + 1) * 3 * 5
