"""FedProx against gradients in closed form, and against plain local SGD where the two must agree."""

import numpy as np
import pytest
import torch
from torch import nn

from clients import FedProx, LocalSGD
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models import CNNSmall

TWO_EPOCHS = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.9)


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def examples(count: int = 10, size: int = 4) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.arange(count) % 5)


def context(data: Examples) -> TrainingContext:
    return TrainingContext(data=data, generator=torch.Generator().manual_seed(7), round=1)


def by_hand(model: nn.Module, data: Examples, mu: float, bias_is_trained: bool) -> tuple[list[np.ndarray], float]:
    """Weights and mean loss of softmax regression after ``TWO_EPOCHS``, in numpy and float64.

    The gradient is (p - y)x' / n + mu (W - W_t), the loss -log p_y + mu/2 (|W - W_t|^2 + |b - b_t|^2).
    """
    weight, bias = (parameter.detach().double().numpy().copy() for parameter in model.parameters())
    start_weight, start_bias = weight.copy(), bias.copy()
    speed_weight, speed_bias = np.zeros_like(weight), np.zeros_like(bias)
    pixels, labels = data.images.flatten(1).double().numpy() / 127.5 - 1, data.labels.numpy()
    generator = torch.Generator().manual_seed(7)
    losses = []
    for _ in range(2):
        for batch in torch.randperm(len(data), generator=generator).split(4):
            inputs, targets = pixels[batch], labels[batch]
            exponentials = np.exp(inputs @ weight.T + bias)
            probabilities = exponentials / exponentials.sum(1, keepdims=True)
            distance = ((weight - start_weight) ** 2).sum() + ((bias - start_bias) ** 2).sum()
            right = probabilities[np.arange(len(batch)), targets]
            losses += [*(-np.log(right) + mu / 2 * distance)]
            error = (probabilities - np.eye(5)[targets]) / len(batch)
            speed_weight = 0.9 * speed_weight + error.T @ inputs + mu * (weight - start_weight)
            speed_bias = 0.9 * speed_bias + error.sum(0) + mu * (bias - start_bias)
            weight = weight - 0.1 * speed_weight
            bias = bias - 0.1 * speed_bias * bias_is_trained
    return [weight, bias], float(np.mean(losses))


@pytest.mark.parametrize("bias_is_trained", [True, False], ids=["all trained", "bias frozen"])
@pytest.mark.parametrize("mu", [0.01, 3.0])
def test_steps_and_loss_are_those_of_the_closed_form(mu: float, bias_is_trained: bool) -> None:
    model, data = linear_model(), examples()
    model[1].bias.requires_grad_(bias_is_trained)  # type: ignore[index]
    expected, loss = by_hand(model, data, mu, bias_is_trained)
    metrics = FedProx(TWO_EPOCHS, mu).train(model, context(data))
    for parameter, weights in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), weights, rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["num-examples"] == 10


def test_without_the_term_it_is_plain_sgd_bit_for_bit() -> None:
    torch.manual_seed(0)
    data, mine, plain = examples(size=28), CNNSmall(), CNNSmall()
    plain.load_state_dict(mine.state_dict())
    metrics = FedProx(TWO_EPOCHS, mu=0.0).train(mine, context(data))
    assert metrics == LocalSGD(TWO_EPOCHS).train(plain, context(data))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor), name


def test_the_model_is_held_where_this_round_started() -> None:
    """One half plays many clients and rounds, on one model."""
    data, model, half = examples(), linear_model(), FedProx(TWO_EPOCHS, mu=3.0)
    half.train(model, context(data))
    received = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(received)
    half.train(model, context(data))
    other = linear_model()
    other.load_state_dict(received)
    FedProx(TWO_EPOCHS, mu=3.0).train(other, context(data))
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_mu_that_cannot_be_is_refused(mu: float) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.mu={mu} is not possible: choose a number of at least 0\.$"):
        FedProx(TWO_EPOCHS, mu)
