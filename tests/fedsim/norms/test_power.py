"""PowerNorm's two passes against their definition, number by number in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.aggregation import RunningAverage
from fedsim.norms import GroupScaling, PowerNorm, use_power_norm

EPS = 1e-5


class Reference:
    """PowerNorm of a few channels as sums over plain numbers; the state is changed in place."""

    def __init__(self, channels: int, warmup: int, forward: float, backward: float) -> None:
        self.warmup, self.forward, self.backward = warmup, forward, backward
        self.phi, self.nu, self.batches = np.ones(channels), np.zeros(channels), np.array(0)

    def step(self, x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
        self.batches += 1
        i = int(self.batches)
        y, dx, dgamma, dbeta = np.zeros_like(x), np.zeros_like(x), np.zeros_like(gamma), np.zeros_like(beta)
        for c in range(len(gamma)):
            places = [(n, c, *pixel) for n in range(len(x)) for pixel in np.ndindex(x.shape[2:])]
            psi = sum(x[p] ** 2 for p in places) / len(places)
            divisor = math.sqrt((psi if i <= self.warmup else self.phi[c]) + EPS)
            z = {p: x[p] / divisor for p in places}
            if i < self.warmup:
                self.phi[c] = self.phi[c] * (i - 1) / i + psi / i
            self.phi[c] = self.forward * self.phi[c] + (1 - self.forward) * psi
            approximate = {p: gamma[c] * dy[p] - (1 - self.backward) * self.nu[c] * z[p] for p in places}
            self.nu[c] += sum(approximate[p] * z[p] for p in places) / len(places)
            for p in places:
                y[p] = gamma[c] * z[p] + beta[c]
                dx[p] = approximate[p] / math.sqrt(psi + EPS)
                dgamma[c] += dy[p] * z[p]
                dbeta[c] += dy[p]
        return y, dx, dgamma, dbeta


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (6, 4)])
@pytest.mark.parametrize("warmup", [0, 1, 4, 100])
@pytest.mark.parametrize(("forward", "backward"), [(0.9, 0.9), (0.5, 0.3)])
def test_both_passes_are_the_definitions_through_the_warmup_and_after(
    follow: object, shape: tuple[int, ...], warmup: int, forward: float, backward: float
) -> None:
    reference = Reference(4, warmup, forward, backward)
    layer = PowerNorm(4, warmup, forward, backward)
    state = {"phi": reference.phi, "ema_gz": reference.nu, "num_batches_tracked": reference.batches}
    follow(layer, reference.step, [1, 3, 0.5, 2, 1, 4, 1, 0.1], shape, state)  # type: ignore[operator]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    values = x.numpy() / np.sqrt(reference.phi + EPS).reshape(1, 4, *(1,) * (x.dim() - 2))
    gamma, beta = (each.detach().numpy().reshape(1, 4, *(1,) * (x.dim() - 2)) for each in (layer.weight, layer.bias))
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), gamma * values + beta, rtol=1e-10)
    assert layer.num_batches_tracked.item() == 8  # evaluation does not count


def test_frozen_parameters_and_inputs_leave_the_other_gradients() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 4)
    layer, frozen = PowerNorm(3), PowerNorm(3)
    layer(images).square().sum().backward()
    frozen.weight.requires_grad_(False)
    frozen(images).square().sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(frozen.bias.grad, layer.bias.grad)
    torch.testing.assert_close(frozen.ema_gz, layer.ema_gz)
    assert layer.ema_gz.abs().min() > 0


@pytest.mark.parametrize("shape", [(3, 6, 2, 5), (3, 6)])
@pytest.mark.parametrize("groups", [1, 3])
def test_scaling_divides_each_pixel_by_the_root_mean_square_of_a_group(shape: tuple[int, ...], groups: int) -> None:
    values = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = values.numpy().astype(np.float64)
    expected = np.zeros_like(x)
    size = 6 // groups
    for first in range(0, 6, size):
        part = x[:, first : first + size]
        expected[:, first : first + size] = part / np.sqrt((part**2).mean(axis=1, keepdims=True) + EPS)
    np.testing.assert_allclose(GroupScaling(groups)(values).numpy(), expected, rtol=1e-5)


def test_it_stands_for_every_batch_norm_and_behind_a_scaling_if_asked() -> None:
    channels = [layer.num_features for layer in resnet18().modules() if isinstance(layer, nn.BatchNorm2d)]
    alone = use_power_norm(resnet18(), warmup=7, alpha_forward=0.8, alpha_backward=0.7, eps=1e-3)
    norms = [layer for layer in alone.modules() if isinstance(layer, PowerNorm)]
    assert [len(layer.weight) for layer in norms] == channels
    assert {(each.warmup, each.alpha_forward, each.alpha_backward, each.eps) for each in norms} == {(7, 0.8, 0.7, 1e-3)}
    assert not any(isinstance(layer, GroupScaling | nn.BatchNorm2d) for layer in alone.modules())
    scaling, norm = use_power_norm(nn.Sequential(nn.BatchNorm1d(8)), groups=2)[0]
    assert isinstance(norm, PowerNorm)
    assert scaling.groups == 2


def test_running_values_of_clients_are_averaged_and_of_their_counters_the_largest_holds() -> None:
    torch.manual_seed(0)
    clients = [PowerNorm(3, warmup=4) for _ in range(2)]
    for client, batches in zip(clients, (3, 7), strict=True):
        for _ in range(batches):
            client(batches * torch.randn(4, 3, 2, 2)).square().sum().backward()
    average = RunningAverage()
    for client in clients:
        average.add(client.state_dict(), weight=0.5)
    merged = PowerNorm(3, warmup=4)
    merged.load_state_dict(average.result())
    assert merged.num_batches_tracked.item() == 7
    for name in ("phi", "ema_gz"):
        one, other = (getattr(client, name) for client in clients)
        assert not torch.equal(one, other)
        torch.testing.assert_close(getattr(merged, name), (one + other) / 2)
