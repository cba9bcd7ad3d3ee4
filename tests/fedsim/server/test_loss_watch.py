"""Warnings of a training loss that runs away."""

import logging

import pytest

from fedsim.server.loss_watch import LossWatch


def rounds_named(losses: list[float], caplog: pytest.LogCaptureFixture, remembered: int = 0) -> list[int]:
    caplog.set_level(logging.WARNING)
    watch = LossWatch()
    for loss in losses[:remembered]:
        watch.remember(loss)
    for round, loss in enumerate(losses[remembered:], start=remembered + 1):
        watch.see(round, loss)
    return [int(record.getMessage().split("in round ")[1].split(";")[0]) for record in caplog.records]


@pytest.mark.parametrize(
    ("losses", "named"),
    [
        ([2.0, 1.0, 0.3, 0.05, 0.025, 0.69, 1.8, 6.7, 0.2, 0.05], [7]),  # once for each jump
        ([2.0, 0.02, 1.9, 0.02, 2.5], [3, 5]),
        ([2.3, 0.1, 0.0001, 0.001, 0.01, 0.1], []),  # a thousand times the lowest, and nothing is lost
        ([2.3, 2.0, 1.7, 2.4, 1.2, 1.9], []),  # a hard problem's ups and downs
    ],
)
def test_a_jump_by_orders_of_magnitude_is_named_in_its_first_round(
    losses: list[float], named: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert rounds_named(losses, caplog) == named


def test_a_resumed_run_knows_the_losses_before_and_names_only_new_jumps(caplog: pytest.LogCaptureFixture) -> None:
    assert rounds_named([2.0, 0.02, 1.9, 0.02, 2.5], caplog, remembered=3) == [5]


def test_the_warning_says_from_what_to_what(caplog: pytest.LogCaptureFixture) -> None:
    rounds_named([2.0, 0.02, 1.65], caplog)
    assert "the training loss rose from 0.02 to 1.65 in round 3" in caplog.text
