"""Unified Normalization's two passes against their definition, number by number in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.norms import UnifiedNorm, use_unified_norm

EPS = 1e-5


class Reference:
    """Unified Normalization of a few channels as sums over plain numbers; the state is changed in place."""

    def __init__(self, channels: int, window: int, warmup: int, outliers: bool, ratio_after: int, keep: float) -> None:
        self.window, self.warmup, self.outliers = window, warmup, outliers
        self.ratio_after, self.keep = ratio_after, keep
        self.running, self.nu = np.ones(channels), np.zeros(channels)
        self.squares, self.products = np.zeros((window, channels)), np.zeros((window, channels))
        self.batches, self.skipped = np.array(0), np.array(0)
        self.ratios: list[float] = []

    def step(self, x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
        self.batches += 1
        i, channels = int(self.batches), range(len(gamma))
        slot = i % self.window
        places = {c: [(n, c, *p) for n in range(len(x)) for p in np.ndindex(x.shape[2:])] for c in channels}
        psi = [sum(x[p] ** 2 for p in places[c]) / len(places[c]) for c in channels]

        roots = [math.sqrt(self.squares[j, c]) for j in range(self.window) for c in channels]
        middle = sum(roots) / len(roots)
        variance = sum((root - middle) ** 2 for root in roots) / (len(roots) - 1)
        self.squares[slot] = psi
        skip = False
        if self.outliers and i >= self.warmup and i > self.window:
            for c in channels:
                excess = sum(self.squares[:, c]) / self.window - math.prod(self.squares[:, c]) ** (1 / self.window)
                skip = skip or excess > variance * self.window
        if skip:
            self.squares[slot] = self.running
            self.skipped += 1

        alone = skip or i <= self.window or i < self.warmup
        y, dx, dgamma, dbeta = np.zeros_like(x), np.zeros_like(x), np.zeros_like(gamma), np.zeros_like(beta)
        for c in channels:
            v = psi[c] if alone else math.prod(self.squares[:, c]) ** (1 / self.window)
            r = 1.0
            if i > max(self.warmup, self.ratio_after) and not skip:
                r = min(max(math.sqrt(v + EPS) / math.sqrt(self.running[c] + EPS), 1 / 5), 5)
                self.ratios.append(r)
            self.running[c] = self.keep * self.running[c] + (1 - self.keep) * v
            z = {p: x[p] / math.sqrt(v + EPS) for p in places[c]}
            g = {p: gamma[c] * dy[p] * r for p in places[c]}
            product = sum(g[p] * z[p] for p in places[c]) / len(places[c])
            self.products[slot, c] = self.nu[c] if skip else product
            mean = product if alone else sum(self.products[:, c]) / self.window
            self.nu[c] = self.keep * self.nu[c] + (1 - self.keep) * mean
            taken = product if skip else self.nu[c]
            for p in places[c]:
                y[p] = gamma[c] * z[p] + beta[c]
                dx[p] = (g[p] - taken * z[p]) / math.sqrt(v + EPS)
                dgamma[c] += dy[p] * r * z[p]
                dbeta[c] += dy[p]
        return y, dx, dgamma, dbeta


SCALES = [1, 1.3, 0.8, 1, 1.2, 0.9, 1.1, 1, 60, 1, 1.4, 0.7, 1, 1e5, 1, 1, 1, 1e-3, 1e-3, 1e-3]


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (6, 4)])
@pytest.mark.parametrize(
    ("window", "warmup", "outliers", "ratio_after", "keep", "skips"),
    [
        (4, 6, True, 0, 0.9, True),
        (4, 9, True, 0, 0.9, True),  # the ninth batch is an outlier
        (4, 6, False, 0, 0.9, False),
        (2, 0, True, 9, 0.7, True),
        (3, 1, False, 12, 0.5, False),
        (4, 100, True, 0, 0.9, False),
    ],
)
def test_both_passes_are_the_definitions_through_warmup_window_and_filter(
    follow: object,
    shape: tuple[int, ...],
    window: int,
    warmup: int,
    outliers: bool,
    ratio_after: int,
    keep: float,
    skips: bool,
) -> None:
    reference = Reference(4, window, warmup, outliers, ratio_after, keep)
    layer = UnifiedNorm(4, window, warmup, outliers, ratio_after, keep)
    state = {
        "running_var": reference.running,
        "ema_gz": reference.nu,
        "window_mean_square": reference.squares,
        "window_gz": reference.products,
        "num_batches_tracked": reference.batches,
        "num_batches_skipped": reference.skipped,
    }
    follow(layer, reference.step, SCALES, shape, state)  # type: ignore[operator]
    assert (0 < reference.skipped < len(SCALES)) if skips else reference.skipped == 0
    # Some batches went by the window, unless the warm-up outlasts them, and r was at both of its bounds without filter.
    assert (len(reference.ratios) > 0) == (warmup < len(SCALES))
    if not outliers:
        assert (min(reference.ratios), max(reference.ratios)) == (1 / 5, 5)
        assert any(1 / 5 < ratio < 5 for ratio in reference.ratios)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    along = (1, 4, *(1,) * (x.dim() - 2))
    gamma, beta = (each.detach().numpy().reshape(along) for each in (layer.weight, layer.bias))
    expected = gamma * x.numpy() / np.sqrt(reference.running + EPS).reshape(along) + beta
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), expected, rtol=1e-10)
    assert layer.num_batches_tracked.item() == len(SCALES)  # evaluation does not count


def test_a_batch_that_is_filtered_out_is_normalized_by_itself_with_the_true_gradient() -> None:
    torch.manual_seed(0)
    layer = UnifiedNorm(3, warmup=0).double()
    for _ in range(6):
        layer(torch.randn(4, 3, 5, 5).double()).square().sum().backward()
    skipped, window = layer.num_batches_skipped.item(), layer.window_mean_square.clone()
    outlier = (30 * torch.randn(4, 3, 5, 5)).double().requires_grad_()
    weights = torch.randn(4, 3, 5, 5).double()
    [ours] = torch.autograd.grad((layer(outlier) * weights).sum(), outlier)
    by_itself = outlier * torch.rsqrt(outlier.square().mean((0, 2, 3), keepdim=True) + EPS)
    [true] = torch.autograd.grad((by_itself * weights).sum(), outlier)
    torch.testing.assert_close(ours, true)
    assert layer.num_batches_skipped.item() == skipped + 1
    assert layer.window_mean_square.max() <= window.max()  # the outlier is not in it


@pytest.mark.parametrize("warmup", [0, 3])
def test_no_batch_is_an_outlier_before_the_window_is_full(warmup: int) -> None:
    torch.manual_seed(0)
    layer, batches = UnifiedNorm(3, window=4, warmup=warmup).double(), 10 * torch.randn(4, 64, 3, 8, 8).double()
    for batch in batches:
        torch.testing.assert_close(layer(batch), batch / (batch.square().mean((0, 2, 3), keepdim=True) + EPS).sqrt())
    assert layer.num_batches_skipped == 0
    squares = batches.square().mean((1, 3, 4))
    torch.testing.assert_close(layer.window_mean_square, squares.roll(1, 0))  # the fourth batch is in slot 0
    torch.testing.assert_close(layer.running_var, 0.9**4 + sum(0.1 * 0.9 ** (3 - i) * squares[i] for i in range(4)))
    layer(1000 * batches[0])
    assert layer.num_batches_skipped == 1


def test_it_stands_for_every_batch_norm() -> None:
    channels = [layer.num_features for layer in resnet18().modules() if isinstance(layer, nn.BatchNorm2d)]
    options = {"window": 3, "warmup": 7, "outlier_filter": False, "ratio_after": 9, "momentum": 0.8, "eps": 1e-3}
    model = use_unified_norm(resnet18(), **options)  # type: ignore[arg-type]
    norms = [layer for layer in model.modules() if isinstance(layer, UnifiedNorm)]
    assert [len(layer.weight) for layer in norms] == channels
    assert all(getattr(layer, key) == value for layer in norms for key, value in options.items())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
