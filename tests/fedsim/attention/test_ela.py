"""Efficient local attention against loops in float64: strips, a one-dimensional convolution, GroupNorm, a sigmoid."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.attention import EfficientLocalAttention, use_ela
from fedsim.core.errors import UserError

FEATURES = torch.randn((2, 8, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def weights_of(strip: np.ndarray, layer: EfficientLocalAttention) -> np.ndarray:
    """What ``layer`` makes of the means (N, C, L) over one direction, number by number."""
    kernel, scale, shift = (each.detach().numpy() for each in (layer.conv.weight, layer.norm.weight, layer.norm.bias))
    count, channels, length = strip.shape
    per_group, size = kernel.shape[1:]
    convolved = np.zeros_like(strip)
    for image, channel, place in np.ndindex(count, channels, length):
        first = channel // per_group * per_group
        for inner in range(per_group):
            for tap in range(size):
                at = place + tap - size // 2
                if 0 <= at < length:
                    convolved[image, channel, place] += kernel[channel, inner, tap] * strip[image, first + inner, at]
    groups = layer.norm.num_groups
    grouped = convolved.reshape(count, groups, -1)
    mean, variance = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    normalized = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(strip.shape)
    return 1 / (1 + np.exp(-(normalized * scale[:, None] + shift[:, None])))


@pytest.mark.parametrize(
    ("kernel_size", "channels_per_group", "norm_groups"), [(7, 1, 4), (5, 4, 2), (1, 8, 1), (3, 2, 8)]
)
def test_it_is_the_formula(kernel_size: int, channels_per_group: int, norm_groups: int) -> None:
    torch.manual_seed(0)
    layer = EfficientLocalAttention(8, kernel_size, channels_per_group, norm_groups).double()
    nn.init.uniform_(layer.norm.weight)
    nn.init.normal_(layer.norm.bias)
    x = FEATURES.numpy()
    rows, columns = weights_of(x.mean(3), layer), weights_of(x.mean(2), layer)
    expected = x * rows[:, :, :, None] * columns[:, :, None, :]
    np.testing.assert_allclose(layer(FEATURES).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 4}, r"attention\.kernel_size=4 is not possible: choose an odd whole number above 0\."),
        ({"kernel_size": -1}, r"attention\.kernel_size=-1 is not possible: choose an odd whole number above 0\."),
        ({}, r"attention\.norm_groups=16 does not divide the 24 channels of a layer of this model: choose a divisor"),
        ({"norm_groups": 0}, r"attention\.norm_groups=0 does not divide the 24 channels"),
        ({"norm_groups": 8, "channels_per_group": 5}, r"attention\.channels_per_group=5 does not divide the 24"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        use_ela(nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU()), **options)
