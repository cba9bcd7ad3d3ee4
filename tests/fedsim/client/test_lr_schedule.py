"""The learning rate of each round: factors by hand, and what clients train with."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.client.lr_schedule import LearningRateSchedule
from fedsim.client.optimizers import make_optimizer
from fedsim.methods.training import LocalTraining


def factors(schedule: LearningRateSchedule) -> list[float]:
    return [schedule.factor(server_round) for server_round in range(5)]


def test_the_factors_of_each_schedule_are_those_of_its_formula() -> None:
    assert factors(LearningRateSchedule()) == [1, 1, 1, 1, 1]
    assert factors(LearningRateSchedule("step", 4, decay=0.1, decay_rounds=2)) == pytest.approx([1, 1, 1, 0.1, 0.1])
    half = math.sqrt(0.5) / 2
    assert factors(LearningRateSchedule("cosine", 4)) == pytest.approx([1, 1, 0.5 + half, 0.5, 0.5 - half])
    assert LearningRateSchedule("cosine", 4).factor(5) == 0
    with pytest.raises(ValueError, match="lr_schedule=linear is not known"):
        LearningRateSchedule("linear").factor(1)


def test_the_optimizer_has_the_rate_of_the_round() -> None:
    schedule = LearningRateSchedule("step", decay=0.5, decay_rounds=1)
    training = LocalTraining(local_epochs=1, batch_size=2, lr=0.8, momentum=0.9, schedule=schedule)
    optimizer = make_optimizer(nn.Linear(1, 1).parameters(), training, 3)
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert LocalSGD(training).training.lr_in(4) == 0.1


def test_a_run_with_steps_is_two_runs_with_two_rates(tmp_path: Path) -> None:
    """Rounds before the step are those of the first rate, and the round behind it is not."""
    import fedsim

    small = ("engine=inline", "dataset.train_per_domain=20", "dataset.test_per_domain=10", "pictures=false")
    words = (*small, "rounds=3", "lr=0.1")
    steps = ("lr_schedule=step", "lr_decay=0.1", "lr_decay_rounds=2")
    loss = {
        name: fedsim.simulate(*words, *more, f"out_dir={tmp_path / name}").rounds["global_loss"]
        for name, more in (("constant", ()), ("step", steps), ("cosine", ("lr_schedule=cosine",)))
    }
    assert loss["constant"][1] == loss["step"][1]
    assert loss["constant"][2] == loss["step"][2]
    assert loss["constant"][3] != loss["step"][3]
    assert loss["constant"][1] == loss["cosine"][1]
    assert loss["constant"][2] != loss["cosine"][2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lr_schedule=linear"], "lr_schedule=linear is not possible: choose constant, cosine or step."),
        (["lr_schedule=step", "lr_decay_rounds=10"], "lr_decay=null is not possible with lr_schedule=step"),
        (["lr_schedule=step", "lr_decay=0.1"], "lr_decay_rounds=null is not possible with lr_schedule=step"),
        (["lr_schedule=cosine", "lr_decay=0.1"], "lr_decay=0.1 is not used with lr_schedule=cosine"),
        (["lr_decay_rounds=0"], "lr_decay_rounds=0 is not possible: choose a whole number of at least 1, or null."),
        (["lr_decay=2"], "lr_decay=2 is not possible: choose a number above 0 and at most 1, or null."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
