"""Which job of a sweep begins, and the time for all, by hand."""

import pickle
import re
import time

import pytest

from fedsim.output.job_lines import JobLines

JOBS = [["rounds=2", f"strategy={strategy}", f"lr={lr}"] for strategy in ("fedavg", "fedbn") for lr in (0.1, 0.3)]


@pytest.fixture(autouse=True)
def _a_clock_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1090.0)


def lines(*finished: int, began: float = 1000.0) -> JobLines:
    made = JobLines.of(JOBS, finished)
    return pickle.loads(pickle.dumps(JobLines(made.names, made.total, began)))  # as a launcher's processes have it


def test_a_job_is_told_by_what_is_its_own() -> None:
    assert lines().line(0) == "job 1 of 4: strategy=fedavg lr=0.1"
    assert JobLines.of([["seed=3"]]).line(0) == "job 1 of 1: seed=3"


def test_the_time_for_all_is_the_mean_of_the_finished_ones_for_each_that_remains() -> None:
    # 90 s for two jobs: 45 s for each of the two others; for one job: 90 s for each of the three others.
    assert re.fullmatch(r"job 3 of 4: strategy=fedbn lr=0\.1  \(all jobs: 90 s left, ends [\w :-]+\)", lines().line(2))
    assert "(all jobs: 4 min left, " in lines().line(1)  # 270 s are 4.5 min, to the even number


def test_a_sweep_that_goes_on_counts_what_it_has_yet_to_do() -> None:
    assert lines(0, 2).line(1) == "job 2 of 4: strategy=fedavg lr=0.3"
    assert "(all jobs: 90 s left, " in lines(0, 2).line(3)


def test_of_jobs_at_once_those_that_begin_together_do_not_know_the_end() -> None:
    assert "left" not in lines().line(1, at_once=2)
    assert "(all jobs: 90 s left, " in lines().line(2, at_once=2)  # a wave of two took 90 s, and one is left
    assert "left" not in lines().line(3, at_once=None)
