"""Adaptive gradient clipping against a loop over units, in float64."""

import math

import pytest
import torch
from torch import nn

from clients.adaptive_clipping import all_but_last_linear, clip_adaptively, transposed_weights, unitwise_norm
from clients.clipped_sgd import ClippedSGD
from datasets.examples import Examples
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models import CNNSmall
from fedsim.norms import ScaledWSConv2d, use_scaled_ws


def clipped_by_loop(weight: torch.Tensor, gradient: torch.Tensor, clip: float) -> torch.Tensor:
    """Brock et al., Eq. 3, one unit at a time and one number at a time."""
    units = [(...,)] if weight.squeeze().dim() <= 1 else [(unit,) for unit in range(weight.shape[0])]
    result = gradient.clone()
    for unit in units:
        weight_norm = math.sqrt(sum(float(w) ** 2 for w in weight[unit].flatten()))
        gradient_norm = math.sqrt(sum(float(g) ** 2 for g in gradient[unit].flatten()))
        limit = clip * max(weight_norm, 1e-3)
        if gradient_norm > limit:
            result[unit] = gradient[unit] * limit / max(gradient_norm, 1e-6)
    return result


@pytest.mark.parametrize(
    "shape",
    [(6, 3, 5, 5), (4, 1, 3, 3), (5, 7), (1, 7), (9,), (8, 1, 1, 1)],
    ids=["convolution", "depthwise", "linear", "one row", "bias", "gain"],
)
@pytest.mark.parametrize("clip", [0.01, 0.1, 10.0])
def test_it_equals_a_loop_over_units(shape: tuple[int, ...], clip: float) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    gradient = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[0], dtype=torch.float64).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    parameter.grad = gradient.clone()
    clip_adaptively([parameter], clip)
    torch.testing.assert_close(parameter.grad, clipped_by_loop(parameter.detach(), gradient, clip), rtol=1e-12, atol=0)


def test_a_zero_bias_is_clipped_to_the_floor_of_the_weight_norm() -> None:
    bias = nn.Parameter(torch.zeros(4))
    bias.grad = torch.full((4,), 3.0)
    clip_adaptively([bias], 0.1)
    assert torch.linalg.vector_norm(bias.grad).item() == pytest.approx(0.1 * 1e-3)


def test_a_zero_gradient_stays_zero() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.zeros(2, 3)
    clip_adaptively([weight], 0.1)
    assert torch.equal(weight.grad, torch.zeros(2, 3))


def test_rows_of_a_linear_layer_are_its_units() -> None:
    assert torch.equal(unitwise_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]])), torch.tensor([[5.0], [2.0]]))


def test_only_the_classifier_is_spared() -> None:
    model = use_scaled_ws(CNNSmall())
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    spared = [name for name, parameter in model.named_parameters() if id(parameter) not in clipped]
    assert spared == ["head.weight", "head.bias"]
    gains = [layer.gain for layer in model.modules() if isinstance(layer, ScaledWSConv2d)]
    assert all(id(gain) in clipped for gain in gains)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_unit_of_a_transposed_convolution_is_an_output_channel(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, dtype=torch.float64)
    spread = torch.rand(6, dtype=torch.float64).view(1, 6, 1, 1)
    (spread * layer(torch.rand(2, 4, 5, 5, dtype=torch.float64))).sum().backward()
    weight, gradient = layer.weight.detach(), layer.weight.grad
    assert gradient is not None
    expected = gradient.clone()
    for out in range(6):
        group, place = divmod(out, 6 // groups)  # which inputs, and where among those of the group
        unit = (slice(group * 4 // groups, (group + 1) * 4 // groups), place)
        limit = 0.5 * max(math.sqrt((weight[unit] ** 2).sum()), 1e-3)
        norm = math.sqrt((gradient[unit] ** 2).sum())
        if norm > limit:
            expected[unit] *= limit / norm
    assert not torch.equal(expected, gradient)
    clip_adaptively(list(layer.parameters()), 0.5, transposed_weights(layer))
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-12, atol=0)


def test_transposed_weights_are_found_wherever_they_are() -> None:
    model = use_scaled_ws(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2))))
    assert transposed_weights(model) == {model[1][0].weight: 2}


def test_a_client_clips_them_so() -> None:
    training = LocalTraining(local_epochs=1, batch_size=2, optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2))
    weight = model[0].weight
    weight.grad = torch.ones_like(weight) * torch.tensor([100.0, 1.0, 0.0]).view(1, 3, 1)
    data = Examples(torch.zeros(1, 2, 2, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    context = TrainingContext(data=data, generator=torch.Generator())
    ClippedSGD(training, clip=0.1).before_step(model, context)
    ratio = weight.grad.norm(dim=(0, 2)) / weight.detach().norm(dim=(0, 2))
    torch.testing.assert_close(ratio, torch.tensor([0.1, 0.1, 0.0]))
