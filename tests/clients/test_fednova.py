"""FedNova's client: its normalizer against the sum over steps, written out."""

import pytest

from clients import FedNova
from fedsim.core.errors import UserError
from fedsim.methods.training import LocalTraining
from tests.clients.small import context, examples, network


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_normalizer_counts_how_often_each_gradient_is_in_the_update(momentum: float) -> None:
    model, data = network(), examples()
    metrics = FedNova(LocalTraining(2, 4, 0.01, momentum)).train(model, context(model, data))
    steps = 6
    velocity, counted = [0.0] * steps, [0.0] * steps  # of each step's gradient
    for step in range(steps):
        velocity = [momentum * each + (place == step) for place, each in enumerate(velocity)]
        counted = [total + each for total, each in zip(counted, velocity, strict=True)]
    assert metrics["normalizer"] == pytest.approx(sum(counted))
    assert metrics["num-examples"] == 12


def test_other_optimizers_are_refused() -> None:
    with pytest.raises(UserError, match="optimizer=adam is not possible with strategy=fednova"):
        FedNova(LocalTraining(1, 4, 0.01, 0.0, "adam"))
