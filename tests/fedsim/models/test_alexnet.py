"""FedBN's AlexNet, counted by hand."""

import pytest
import torch

from fedsim.models import AlexNet


@pytest.mark.parametrize("linear_norm", [True, False])
def test_it_has_the_layers_it_says(linear_norm: bool) -> None:
    kernels = [(3, 64, 121), (64, 192, 25), (192, 384, 9), (384, 256, 9), (256, 256, 9)]
    convolutions = sum((inputs * area + 1) * outputs for inputs, outputs, area in kernels)
    linear = (9216 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10
    norms = 2 * (64 + 192 + 384 + 256 + 256 + (4096 + 4096 if linear_norm else 0))
    with torch.device("meta"):
        model = AlexNet(linear_norm=linear_norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + linear + norms


@pytest.mark.parametrize("size", [63, 96])
def test_it_takes_images_of_any_size_above_the_smallest(size: int) -> None:
    model = AlexNet(10, (1, size, size)).eval()
    assert model(torch.zeros(1, 1, size, size)).shape == (1, 10)
