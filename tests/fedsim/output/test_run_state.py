"""The lines about a run, word by word."""

import pytest

from fedsim.output.forecast import Forecast
from fedsim.output.run_state import RunState, fitting

EVALUATED = {
    "client_accuracy_mean": 0.1234,
    "client_accuracy_worst": 0.05,
    "global_accuracy": 0.9876,
    "images_per_second": 2310.4,
    "memory_mb": 812.3,
}


def state(seconds_a_round: float = 2.0) -> RunState:
    """A run of ten rounds, four clients each, whose fifth round is evaluated."""
    now = 0.0
    run = RunState(forecast=Forecast(lambda: now))
    run.start(1, 10)
    for round in range(1, 6):
        run.cohort(round, 4)
        for client in range(4):
            now = seconds_a_round * (round - 1 + (client + 1) / 4)
            run.client_done()
        run.round_done(round, {} if round < 5 else EVALUATED)
    return run


def test_a_line_of_a_log_has_accuracies_speed_memory_and_the_end() -> None:
    line = state().line(5)
    assert line.startswith(
        "round 5/10  client accuracy 12.3%  worst 5.0%  global accuracy 98.8%  2310 images/s  812 MB  10 s left, ends "
    )


def test_what_is_not_known_is_left_out() -> None:
    run = RunState(rounds=10)
    run.round_done(0, {"client_accuracy_mean": 0.1, "memory_mb": 1949.0})
    assert run.line(0) == "round 0/10  client accuracy 10.0%  1.9 GB"
    assert run.where() == ["round 0/10"]
    assert RunState().how_well(80, ascii_only=False) == []


def test_the_end_is_expected_within_a_round_and_after_the_last_there_is_none() -> None:
    run = state()
    run.cohort(6, 4)
    run.client_done()  # still at 10 s, by the clock: 5.25 rounds in 10 s, and 4.75 remain
    assert run.left()[0].startswith("9 s left")
    assert run.completed == pytest.approx(0.525)
    for round in range(6, 11):
        run.cohort(round, 4)
        for _ in range(4):
            run.client_done()
    assert run.completed == 1.0
    run.round_done(10, EVALUATED)
    assert run.left() == []
    assert run.line(10).endswith("812 MB")


def test_a_round_that_is_recorded_while_the_next_is_trained_does_not_set_the_run_back() -> None:
    run = state()
    run.cohort(6, 4)
    run.client_done()
    run.round_done(5, EVALUATED)  # on devices
    assert run.round == 6
    assert run.completed == pytest.approx(0.525)


def test_a_resumed_run_counts_its_own_rounds_alone() -> None:
    now = 0.0
    run = RunState(forecast=Forecast(lambda: now))
    run.start(9, 10)
    run.cohort(9, 1)
    now = 3.0
    run.client_done()
    assert run.left()[0].startswith("3 s left")  # one of two rounds
    assert run.completed == pytest.approx(0.9)


def test_the_curve_has_the_room_that_the_numbers_leave() -> None:
    run = RunState()
    run.accuracies = [n / 100 for n in range(100)]
    run.evaluated = run.measured = EVALUATED
    numbers = ["worst 5.0%", "2310 images/s", "812 MB"]
    for width, bars in ((120, 60), (80, 23), (62, 5), (61, 0)):
        first, *others = run.how_well(width, ascii_only=False)
        assert others == numbers
        words = first.split(" ")
        assert (words[:2], words[-1]) == (["client", "accuracy"], "12.3%")
        assert len("".join(words[2:-1])) == bars
        if bars in (23, 5):
            assert len("  ".join([first, *others])) == width


def test_a_narrow_line_keeps_its_first_parts() -> None:
    parts = ["round 5/10", "3/4 clients", "10 s left"]
    assert fitting(parts, 80) == "round 5/10  3/4 clients  10 s left"
    assert fitting(parts, 33) == "round 5/10  3/4 clients"
    assert fitting(parts, 4) == "roun"
    assert fitting([], 4) == ""
