"""Every optimizer's steps against the published update rules in float64."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.client.optimizers import OPTIMIZERS, TABLE, make_optimizer, refuse_unused_momentum
from fedsim.core.errors import UserError
from fedsim.methods.training import LocalTraining

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
    first, second, largest = (np.zeros_like(weight) for _ in range(3))
    for count, raw in enumerate(gradients, start=1):
        gradient = raw + DECAY * weight if name in ("sgd", "adam", "amsgrad") else raw
        decay, ratio = (DECAY if name in ("adamw", "adamp", "sgdp") else 0.0), 1.0
        if name.startswith("sgd"):
            first = MOMENTUM * first + gradient
            step = first
            decay /= 1 - MOMENTUM
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            largest = np.maximum(largest, second)  # before the bias correction, which a later step has less of
            divisor = largest if name == "amsgrad" else second
            step = first / (np.sqrt(divisor / (1 - 0.999**count)) + EPS)
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


def trained(name: str, gradients: list[torch.Tensor]) -> np.ndarray:
    weight = nn.Parameter(WEIGHT.clone())
    momentum = MOMENTUM if name.startswith("sgd") else 0.0
    optimizer = make_optimizer([weight], LocalTraining(1, 32, LR, momentum, name, DECAY))
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach().numpy()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("change", [lambda gradient: gradient, tangential], ids=["any", "tangential"])
def test_the_steps_are_the_published_ones(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    gradients = [change(gradient) for gradient in GRADIENTS]
    expected = by_hand(name, [gradient.numpy() for gradient in gradients], WEIGHT.numpy())
    np.testing.assert_allclose(trained(name, gradients), expected, rtol=1e-7, atol=1e-9)


def test_amsgrad_divides_by_the_largest_second_moment_so_far() -> None:
    """Reddi, Kale & Kumar (ICLR 2018); gradients that become small are where that is not the present one."""
    gradients = [scale * gradient for scale, gradient in zip((30, 0.1, 0.1, 0.1), GRADIENTS * 2, strict=False)]
    amsgrad, adam = (
        by_hand(name, [gradient.numpy() for gradient in gradients], WEIGHT.numpy()) for name in ("amsgrad", "adam")
    )
    np.testing.assert_allclose(trained("amsgrad", gradients), amsgrad, rtol=1e-7, atol=1e-9)
    assert (np.abs(amsgrad - WEIGHT.numpy()) < np.abs(adam - WEIGHT.numpy())).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "momentum"),
    [(name, 0.0) for name in OPTIMIZERS if name != "sgdp"]
    + [(each.name, 0.9) for each in TABLE if each.takes_momentum],
)
def test_what_an_optimizer_keeps_is_counted(name: str, momentum: float) -> None:
    """But of SGDP without momentum, for which timm keeps a buffer of zeros even then."""
    weight = nn.Parameter(WEIGHT.clone())
    optimizer = make_optimizer([weight], LocalTraining(1, 32, LR, momentum, name, DECAY))
    weight.grad = GRADIENTS[0].clone()
    optimizer.step()
    kept = [each for each in optimizer.state[weight].values() if getattr(each, "shape", ()) == weight.shape]
    assert len(kept) == OPTIMIZERS[name].numbers_kept(momentum)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_is_refused_where_it_would_not_be_used(name: str) -> None:
    refuse_unused_momentum(name, 0)
    if OPTIMIZERS[name].takes_momentum:
        refuse_unused_momentum(name, 0.9)
    else:
        with pytest.raises(
            UserError, match=rf"^momentum=0\.9 is not used by optimizer={name}: .* choose sgd or sgdp\.$"
        ):
            refuse_unused_momentum(name, 0.9)


def test_each_name_is_registered_once() -> None:
    assert len(OPTIMIZERS) == len(TABLE)


def test_an_unknown_optimizer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^optimizer=lamb is not known$"):
        make_optimizer([], LocalTraining(1, 32, LR, 0.0, "lamb", DECAY))


def test_timm_is_imported_where_such_an_optimizer_is_made() -> None:
    code = "import sys, fedsim.client.optimizers; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_projected_step_is_another_one() -> None:
    """So that the test above has seen both branches."""
    gradient = tangential(GRADIENTS[0]).numpy()
    assert project(WEIGHT.numpy(), gradient, gradient)[1] == 0.1
    assert project(WEIGHT.numpy(), GRADIENTS[0].numpy(), gradient)[1] == 1.0
