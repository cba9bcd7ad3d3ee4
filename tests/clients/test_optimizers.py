"""Every optimizer's steps against the published update rules in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from clients.optimizers import make_optimizer
from fedsim.method import LocalTraining

LR, DECAY, MOMENTUM, EPS = 0.1, 0.05, 0.9, 1e-8
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn((4, 6), generator=GENERATOR, dtype=torch.float64)
GRADIENTS = [torch.randn((4, 6), generator=GENERATOR, dtype=torch.float64) for _ in range(3)]
Projection = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, float]]


def along(weight: np.ndarray) -> np.ndarray:
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)


def project(weight: np.ndarray, gradient: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, float]:
    """AdamP's rule: rows first, then the whole as one row; the step without its part along the weight."""
    for shape in (weight.shape, (1, weight.size)):
        w, g, s = weight.reshape(shape), gradient.reshape(shape), step.reshape(shape)
        cosine = np.abs((along(w) * along(g)).sum(1))
        if cosine.max() < 0.1 / np.sqrt(shape[1]):
            return (s - (along(w) * s).sum(1, keepdims=True) * along(w)).reshape(weight.shape), 0.1
    return step, 1.0


def by_hand(name: str, gradients: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for count, raw in enumerate(gradients, start=1):
        gradient = raw + DECAY * weight if name in ("sgd", "adam") else raw
        decay, ratio = (DECAY if name in ("adamw", "adamp", "sgdp") else 0.0), 1.0
        if name.startswith("sgd"):
            first = MOMENTUM * first + gradient
            step = first
            decay /= 1 - MOMENTUM
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            step = first / (np.sqrt(second / (1 - 0.999**count)) + EPS)
        if name.endswith("p"):
            step, ratio = project(weight, raw, step)
        if not name.startswith("sgd"):
            step = step / (1 - 0.9**count)
        weight = weight * (1 - LR * decay * ratio) - LR * step
    return weight


def tangential(gradient: torch.Tensor) -> torch.Tensor:
    """Without its part along each row of the weight: what a layer in front of BatchNorm has."""
    rows = WEIGHT / WEIGHT.norm(dim=1, keepdim=True)
    return gradient - (gradient * rows).sum(1, keepdim=True) * rows


@pytest.mark.parametrize("name", ["sgd", "sgdp", "adam", "adamw", "adamp"])
@pytest.mark.parametrize("change", [lambda gradient: gradient, tangential], ids=["any", "tangential"])
def test_the_steps_are_the_published_ones(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weight = nn.Parameter(WEIGHT.clone())
    momentum = MOMENTUM if name.startswith("sgd") else 0.0
    optimizer = make_optimizer([weight], LocalTraining(1, 32, LR, momentum, name, DECAY))
    gradients = [change(gradient) for gradient in GRADIENTS]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    expected = by_hand(name, [gradient.numpy() for gradient in gradients], WEIGHT.numpy())
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-7, atol=1e-9)


def test_a_projected_step_is_another_one() -> None:
    """So that the test above has seen both branches."""
    gradient = tangential(GRADIENTS[0]).numpy()
    assert project(WEIGHT.numpy(), gradient, gradient)[1] == 0.1
    assert project(WEIGHT.numpy(), GRADIENTS[0].numpy(), gradient)[1] == 1.0
