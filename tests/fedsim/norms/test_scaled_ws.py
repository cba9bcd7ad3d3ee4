"""Scaled weight standardization against its formula, written as a loop in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from fedsim.norms import norm_layers
from fedsim.norms.scaled_ws import RELU_GAIN, ScaledWSConv2d, use_scaled_ws

SHAPES = [  # in, out, kernel, groups
    (3, 5, 3, 1),
    (4, 6, (1, 5), 2),
    (4, 4, 3, 4),
    (3, 2, 1, 1),
]


def standardized(layer: ScaledWSConv2d, gamma: float, eps: float) -> np.ndarray:
    """W_hat = gain * gamma * (W - mean) / sqrt(max(N * biased variance, eps)), filter by filter."""
    weight, gain = layer.weight.detach().double().numpy(), layer.gain.detach().double().numpy()
    result = np.empty_like(weight)
    for channel, filter_ in enumerate(weight):
        values = filter_.ravel()
        n, mean = len(values), sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / n
        result[channel] = gain[channel, 0, 0, 0] * gamma * (filter_ - mean) / math.sqrt(max(n * variance, eps))
    return result


def layer_with_random_gain(
    shape: tuple[int, int, int | tuple[int, int], int], dtype: torch.dtype = torch.float32, **options: float
) -> ScaledWSConv2d:
    channels_in, channels_out, kernel, groups = shape
    torch.manual_seed(0)
    layer = ScaledWSConv2d(channels_in, channels_out, kernel, groups=groups, dtype=dtype, **options)
    layer.gain = nn.Parameter(torch.rand(channels_out, 1, 1, 1, dtype=dtype) + 0.5)
    return layer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("gamma", "eps"), [(RELU_GAIN, 1e-4), (1.0, 0.33)])  # 0.33 is about N * variance as drawn
def test_the_weight_is_the_formulas(shape: tuple[int, int, int, int], gamma: float, eps: float) -> None:
    layer = layer_with_random_gain(shape, gamma=gamma, eps=eps)
    expected = standardized(layer, gamma, eps)
    np.testing.assert_allclose(layer.standardized_weight().detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    exact = layer_with_random_gain(shape, torch.float64, gamma=gamma, eps=eps)
    np.testing.assert_allclose(
        exact.standardized_weight().detach().numpy(), standardized(exact, gamma, eps), rtol=1e-12, atol=1e-14
    )


def test_the_floor_stands_inside_the_maximum() -> None:
    layer = ScaledWSConv2d(1, 3, (1, 2), gamma=2.0, eps=1e-4, dtype=torch.float64)
    with torch.no_grad():  # N * variance is 0, 2e-6 (below the floor) and 2 (above it)
        layer.weight.copy_(torch.tensor([[0.7, 0.7], [0.999, 1.001], [0.0, 2.0]]).double().reshape(3, 1, 1, 2))
    rows = layer.standardized_weight().detach().reshape(3, 2)
    root = math.sqrt(2)
    expected = torch.tensor([[0, 0], [-2 * 0.001 / 0.01, 2 * 0.001 / 0.01], [-2 / root, 2 / root]], dtype=torch.float64)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-12)


def test_a_constant_filter_has_a_finite_gradient() -> None:
    layer = ScaledWSConv2d(2, 2, 3)
    nn.init.constant_(layer.weight, 0.3)
    layer(torch.ones(1, 2, 4, 4)).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (2, 4, (1, 3), 2)])
def test_the_gradient_is_the_derivative(shape: tuple[int, int, int, int]) -> None:
    layer = layer_with_random_gain(shape, torch.float64)
    images = torch.randn(1, shape[0], 2, 3, dtype=torch.float64, requires_grad=True)

    def output(images: torch.Tensor, weight: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        parameters = {"weight": weight, "gain": gain, "bias": bias}
        return torch.func.functional_call(layer, parameters, (images,))

    assert layer.bias is not None
    assert torch.autograd.gradcheck(output, (images, layer.weight, layer.gain, layer.bias))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "groups": 2},
        {"padding": "same"},
        {"padding": 1, "bias": False},
    ],
)
def test_the_output_is_a_convolution_with_that_weight(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, **options)
    layer = ScaledWSConv2d.like(conv)
    images = torch.randn(2, 4, 9, 9)
    weight = torch.from_numpy(standardized(layer, RELU_GAIN, 1e-4)).float()
    expected = F.conv2d(images, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.testing.assert_close(layer(images), expected, rtol=1e-4, atol=1e-5)


def test_the_padding_mode_is_kept() -> None:
    layer = ScaledWSConv2d.like(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"))
    images = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    expected = F.conv2d(padded, layer.standardized_weight(), layer.bias)
    torch.testing.assert_close(layer(images), expected)


def test_every_filter_has_mean_zero_and_norm_gamma() -> None:
    weight = ScaledWSConv2d(16, 8, 3, gamma=1.5).standardized_weight().detach().double()
    assert weight.mean(dim=(1, 2, 3)).abs().max() < 1e-7
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), torch.full((8,), 1.5).double(), rtol=1e-6, atol=0)


def test_the_constant_undoes_what_a_relu_does_to_the_standard_deviation() -> None:
    assert pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-3) == RELU_GAIN
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (RELU_GAIN * normal.relu()).std().item() == pytest.approx(1, rel=5e-3)


def test_a_bias_starts_as_the_convolutions_or_at_zero() -> None:
    conv = nn.Conv2d(2, 3, 3)
    kept, added = ScaledWSConv2d.like(conv), ScaledWSConv2d.like(nn.Conv2d(2, 3, 3, bias=False))
    assert kept.bias is not None
    assert added.bias is not None
    assert torch.equal(kept.bias, conv.bias)
    assert added.bias.tolist() == [0, 0, 0]
    assert torch.equal(kept.weight, conv.weight)
    assert kept.gain.flatten().tolist() == [1, 1, 1]
    assert {name for name, _ in added.named_parameters()} == {"weight", "bias", "gain"}


def test_resnets_convolutions_are_standardized_and_nothing_else_changes() -> None:
    model = resnet18(weights=None)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.dim() in (2, 4)}
    assert use_scaled_ws(model, gamma=1.2, eps=1e-3) is model
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 20
    assert all(isinstance(layer, ScaledWSConv2d) and layer.bias is not None for layer in convolutions)
    assert {(layer.gamma, layer.eps) for layer in convolutions} == {(1.2, 1e-3)}
    assert not any(isinstance(layer, norm_layers()) for layer in model.modules())
    assert isinstance(model.layer4[0].downsample[0], ScaledWSConv2d)
    assert type(model.fc) is nn.Linear
    state = model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert len(weights) == 21
