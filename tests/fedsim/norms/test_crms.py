"""CRMSNorm against its definition in float64 and against Layer Normalization of the completed zero-mean vector."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from fedsim.norms import CRMSNorm, use_crms_norm

EPS = 1e-5
IMAGES = 1 + 2 * torch.randn((4, 6, 5, 7), generator=torch.Generator().manual_seed(0))
FEATURES = 1 + 2 * torch.randn((4, 6), generator=torch.Generator().manual_seed(1))


def layer_with_scale() -> CRMSNorm:
    layer = CRMSNorm(6, eps=EPS)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, 6))
    return layer


@pytest.mark.parametrize("input", [IMAGES, FEATURES])
def test_the_output_is_the_formulas(input: torch.Tensor) -> None:
    x = input.numpy().astype(np.float64)
    expected = np.zeros_like(x)
    for n, image in enumerate(x):
        pixels = image.reshape(6, -1).T  # six stored values each
        mean_square = sum(sum(v**2 for v in pixel) + sum(pixel) ** 2 for pixel in pixels) / (7 * len(pixels))
        expected[n] = image / np.sqrt(mean_square + EPS)
    scale = np.linspace(-1, 2, 6).reshape(1, 6, *(1,) * (x.ndim - 2))
    np.testing.assert_allclose(layer_with_scale()(input).detach().numpy(), expected * scale, rtol=1e-4, atol=1e-5)


def test_it_is_layer_norm_of_the_completed_features_with_its_gradient() -> None:
    layer, stored = layer_with_scale().double(), FEATURES.double().requires_grad_()
    completed = torch.cat([stored, -stored.sum(1, keepdim=True)], dim=1)
    expected = F.layer_norm(completed, (7,), eps=EPS)[:, :6] * layer.weight
    output = layer(stored)
    torch.testing.assert_close(output, expected)
    weights = torch.arange(24).double().view(4, 6)
    [ours], [theirs] = (torch.autograd.grad((each * weights).sum(), stored) for each in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_of_images_it_is_the_layer_norm_of_norm_ln_with_every_pixel_completed() -> None:
    completed = torch.cat([IMAGES, -IMAGES.sum(1, keepdim=True)], dim=1)
    expected = nn.GroupNorm(1, 7, eps=EPS)(completed)[:, :6]
    torch.testing.assert_close(CRMSNorm(6, eps=EPS)(IMAGES), expected)


def test_it_stands_for_every_batch_norm_and_takes_images_of_any_size() -> None:
    channels = [layer.num_features for layer in resnet18().modules() if isinstance(layer, nn.BatchNorm2d)]
    model = use_crms_norm(resnet18(), eps=1e-4)
    norms = [layer for layer in model.modules() if isinstance(layer, CRMSNorm)]
    assert [len(layer.weight) for layer in norms] == channels
    assert {layer.eps for layer in norms} == {1e-4}
    images = torch.randn((3, 3, 48, 32), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-4)
