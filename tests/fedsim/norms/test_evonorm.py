"""EvoNorm in the place of BatchNorm and ReLU, against the paper's formulas in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.models import CNN6, CNNSmall
from fedsim.norms import norm_layers, use_evonorm_b0, use_evonorm_s0

EPS = 1e-5
IMAGES = 1 + 2 * torch.randn((4, 8, 5, 3), generator=torch.Generator().manual_seed(0))
FEATURES = 1 + 2 * torch.randn((4, 8), generator=torch.Generator().manual_seed(1))
V = np.linspace(0.5, 2, 8)


def built(use: object, input: torch.Tensor, **options: int) -> nn.Module:
    norm = nn.BatchNorm2d(8) if input.dim() == 4 else nn.BatchNorm1d(8)
    model = use(nn.Sequential(norm, nn.ReLU()), **options)  # type: ignore[operator]
    with torch.no_grad():
        dict(model.named_parameters())[next(n for n, _ in model.named_parameters() if n.endswith("v"))].copy_(
            torch.from_numpy(V)
        )
    return model


@pytest.mark.parametrize("input", [IMAGES, FEATURES])
def test_s0_is_a_swish_over_the_deviation_of_a_group(input: torch.Tensor) -> None:
    output = built(use_evonorm_s0, input, groups=2)(input).detach().numpy()
    x = input.numpy().astype(np.float64)
    groups = x.reshape(4, 2, -1)
    deviation = np.sqrt(groups.var(axis=2, keepdims=True) + EPS)
    v = V.reshape(1, 8, *(1,) * (x.ndim - 2))
    swish = x / (1 + np.exp(-v * x))
    np.testing.assert_allclose(output, (swish.reshape(4, 2, -1) / deviation).reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("input", [IMAGES, FEATURES])
def test_b0_divides_by_the_larger_of_batch_and_instance(input: torch.Tensor) -> None:
    model = built(use_evonorm_b0, input)
    output = model(input).detach().numpy()
    x = input.numpy().astype(np.float64)
    pixels = tuple(range(2, x.ndim))
    batch = x.var(axis=(0, *pixels), keepdims=True)
    instance = x.var(axis=pixels, keepdims=True) if pixels else np.zeros_like(x)
    v = V.reshape(1, 8, *(1,) * (x.ndim - 2))
    expected = x / np.maximum(np.sqrt(batch + EPS), v * x + np.sqrt(instance + EPS))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    [(_, running)] = list(model.named_buffers())
    count = x.size / 8
    np.testing.assert_allclose(running, 0.9 + 0.1 * batch.flatten() * count / (count - 1), rtol=1e-5)


@pytest.mark.parametrize("use", [use_evonorm_b0, use_evonorm_s0])
@pytest.mark.parametrize(("network", "norms"), [(CNN6, 5), (CNNSmall, 3)])
def test_our_networks_keep_neither_a_batch_norm_nor_its_relu(use: object, network: type, norms: int) -> None:
    model = use(network(10))  # type: ignore[operator]
    layers = list(model.modules())
    assert sum(isinstance(layer, norm_layers()) for layer in layers) == norms
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d | nn.ReLU) for layer in layers)
    logits = model(torch.randn((3, 3, 28, 28), generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 10)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_network_whose_relu_stands_elsewhere_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^norm=evonorm_s0 replaces each BatchNorm and the ReLU after it, and bn1 is not"
    ):
        use_evonorm_s0(resnet18(weights=None))
    with pytest.raises(UserError, match=r"and there is none: choose another norm\.$"):
        use_evonorm_b0(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"norm\.groups=5 does not divide the 8 channels"):
        use_evonorm_s0(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), groups=5)
