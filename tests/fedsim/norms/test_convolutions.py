"""Standardized convolutions of torch's six kinds, against torch's functions with weights standardized in numpy."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations, weight_norm

from fedsim.core.errors import UserError
from fedsim.norms import ScaledWSConvolution, WSConvolution, use_norm, use_scaled_ws, use_ws
from fedsim.norms.convolutions import fan_in, swap_channels

FORWARD: dict[type[_ConvNd], Callable[..., torch.Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2},
    {"groups": 4, "stride": 2, "bias": False},
]


def standardized(weight: np.ndarray, output_channels: list[np.ndarray], scaled: bool) -> np.ndarray:
    """Channel by channel; ``output_channels`` are boolean arrays that say which numbers belong to one."""
    result = np.full_like(weight, np.nan)
    for mine in output_channels:
        values = weight[mine]
        n, mean = len(values), values.sum() / len(values)
        squares = ((values - mean) ** 2).sum()
        divisor = np.sqrt(max(squares, 1e-4)) if scaled else np.sqrt(squares / (n - 1) + 1e-5)
        result[mine] = (1.7139588594436646 if scaled else 1.0) * (values - mean) / divisor
    return result


def output_channels(conv: _ConvNd) -> list[np.ndarray]:
    """Which weights reach an output channel, found out by trying: those that a gradient from it reaches."""
    spatial = len(conv.kernel_size)
    images = torch.rand(1, conv.in_channels, *(7,) * spatial, dtype=torch.float64) + 0.5
    weight = conv.weight.detach().double().requires_grad_()
    output = FORWARD[type(conv)](images, weight, groups=conv.groups)
    masks = []
    for channel in range(conv.out_channels):
        (gradient,) = torch.autograd.grad(output[0, channel].sum(), weight, retain_graph=True)
        masks.append((gradient != 0).numpy())
    return masks


@pytest.mark.parametrize("kind", FORWARD, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("use", "scaled"), [(use_scaled_ws, True), (use_ws, False)], ids=["sws", "ws"])
def test_the_output_is_torchs_with_the_standardized_weight(
    kind: type[_ConvNd], options: dict[str, Any], use: Callable[[nn.Module], nn.Module], scaled: bool
) -> None:
    torch.manual_seed(0)
    conv = kind(4, 8, 3, **options, dtype=torch.float64)  # type: ignore[call-arg]
    bias = conv.bias
    masks = output_channels(conv)
    assert {int(mask.sum()) for mask in masks} == {4 // conv.groups * 3 ** len(conv.kernel_size)} == {fan_in(conv)}
    assert np.stack(masks).sum(0).min() == np.stack(masks).sum(0).max() == 1
    expected = torch.from_numpy(standardized(conv.weight.detach().numpy(), masks, scaled))
    images = torch.randn(2, 4, *(9,) * len(conv.kernel_size), dtype=torch.float64)
    reference = FORWARD[kind](images, expected, bias, **{k: v for k, v in options.items() if k != "bias"})
    layer = use(nn.Sequential(conv))[0]
    assert isinstance(layer, ScaledWSConvolution if scaled else WSConvolution)
    assert isinstance(layer, kind)
    assert (layer.bias is None) == (bias is None and not scaled)
    torch.testing.assert_close(layer(images), reference, rtol=1e-10, atol=1e-12)
    names = ["weight", *(["bias"] if layer.bias is not None else []), *(["gain"] if scaled else [])]
    assert sorted(layer.state_dict()) == sorted(names)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(images), layer(images))


def test_the_gain_of_a_transposed_convolution_scales_its_output_channels() -> None:
    torch.manual_seed(0)
    layer = use_scaled_ws(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False, dtype=torch.float64))
    assert isinstance(layer, ScaledWSConvolution)
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    before = layer(images)
    gains = torch.arange(1.0, 7.0, dtype=torch.float64)
    with torch.no_grad():
        layer.gain.copy_(gains.view(6, 1, 1, 1))
    torch.testing.assert_close(layer(images), before * gains.view(1, 6, 1, 1))


def test_a_transposed_convolution_takes_an_output_size() -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1)
    layer = use_ws(copy.deepcopy(conv))
    images = torch.randn(1, 2, 5)
    assert layer(images).shape == conv(images).shape == (1, 3, 10)
    assert layer(images, [9]).shape == conv(images, [9]).shape == (1, 3, 9)


def test_the_two_layouts_of_a_weight_are_each_others_inverse() -> None:
    weight = torch.arange(4 * 3 * 5).view(4, 3, 5)  # in, out / groups
    by_output = swap_channels(weight, groups=2)
    assert by_output.shape == (6, 2, 5)
    for out in range(6):
        for place in range(2):
            assert torch.equal(by_output[out, place], weight[2 * (out // 3) + place, out % 3])
    assert torch.equal(swap_channels(by_output, groups=2), weight)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_kept(mode: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(2, 3, 3, padding=1, padding_mode=mode)
    layer = use_ws(copy.deepcopy(conv))
    images = torch.randn(1, 2, 6)
    rows = [np.broadcast_to(np.arange(3)[:, None, None] == row, (3, 2, 3)) for row in range(3)]
    weight = torch.from_numpy(standardized(conv.weight.detach().numpy(), rows, False))
    expected = F.conv1d(F.pad(images, (1, 1), mode=mode), weight, conv.bias)
    torch.testing.assert_close(layer(images), expected)


def test_the_parameters_themselves_are_taken_over() -> None:
    """A weight that two layers share stays shared, and one that is not trained stays so."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    model = use_scaled_ws(model)
    assert model[0].weight is model[1].weight
    assert not model[1].bias.requires_grad
    assert model[0].bias.tolist() == [0, 0, 0]


class SamePadding(nn.Conv2d):
    """As timm's ``Conv2dSame``: pads by itself."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias)


class Scaled(nn.Conv2d):
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


class LowRank(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(2, 2, 2)
        self.rank = nn.Parameter(torch.ones(1))


class Named(nn.Conv2d):
    """Nothing of its own but a constructor and a first weight."""

    def __init__(self) -> None:
        super().__init__(2, 2, 2, bias=False)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight.view(2, -1))


def hooked() -> nn.Module:
    conv = nn.Conv2d(2, 2, 2)
    conv.register_forward_hook(lambda layer, args, output: 2 * output)
    return conv


@pytest.mark.parametrize("norm", ["sws", "ws"])
@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (lambda: SamePadding(2, 2, 2), "a SamePadding with a forward of its own"),
        (lambda: Scaled(2, 2, 2), "a Scaled with a forward of its own"),
        (LowRank, "a LowRank with parameters of its own"),
        (lambda: nn.LazyConv2d(2, 2), "a LazyConv2d with a shape that is not known yet"),
        (lambda: nn.LazyConvTranspose1d(2, 2), "a LazyConvTranspose1d with a shape that is not known yet"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(2, 2, 2)), "a ParametrizedConv2d with parameters of its own"),
        (lambda: weight_norm(nn.Conv2d(2, 2, 2)), "a Conv2d with parameters of its own"),
        (hooked, "a Conv2d with hooks"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_what_would_be_lost_is_refused_by_name(norm: str, make: Callable[[], nn.Module], lost: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 2), nn.Sequential(make()))
    with pytest.raises(UserError, match=rf"^norm={norm} would replace 1\.0, {lost}, which .*: choose another norm"):
        use_norm(model, norm)
    assert type(model[0]) is nn.Conv2d  # and nothing is half done


def test_a_subclass_that_only_starts_otherwise_is_standardized() -> None:
    layer = use_ws(nn.Sequential(Named()))[0]
    assert isinstance(layer, WSConvolution)
    assert torch.equal(layer.weight, Named().weight)


def test_what_is_standardized_already_stays_and_is_not_standardized_otherwise() -> None:
    model = use_scaled_ws(nn.Sequential(nn.Conv1d(2, 2, 2)))
    layer = model[0]
    assert use_scaled_ws(model)[0] is layer
    with pytest.raises(UserError, match="a ScaledWSConv1d with a forward of its own"):
        use_ws(model)


@pytest.mark.parametrize("norm", ["sws", "ws", "ws_gn"])
def test_a_network_without_convolutions_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match=rf"^norm={norm} standardizes convolutions, and this network has none: choose "):
        use_norm(nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32)), norm)


def test_the_fan_in_of_a_depthwise_transposed_convolution_may_be_one() -> None:
    with pytest.raises(UserError, match="fan-in of 1"):
        use_ws(nn.ConvTranspose2d(4, 4, 1, groups=4))
    use_ws(nn.ConvTranspose2d(4, 2, 1, groups=2))  # two inputs, one output in each group
