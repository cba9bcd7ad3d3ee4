"""The digits network of FedBN, counted and computed by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.models import CNN6
from fedsim.norms import remove_norm, use_scaled_ws

CHANNELS = (64, 64, 128)
WIDTHS = (2048, 512)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_it_has_as_many_parameters_as_fedbns_network() -> None:
    model = CNN6()
    assert count(model) == 14_219_210
    norms = 2 * sum(CHANNELS + WIDTHS)
    assert count(remove_norm(model)) == 14_219_210 - norms
    assert count(use_scaled_ws(model)) == 14_219_210 - norms + sum(CHANNELS)  # a gain per channel


def test_the_logits_are_those_of_the_layers_written_out() -> None:
    torch.manual_seed(0)
    model = CNN6(num_classes=7).eval()
    images = torch.randn(2, 3, 28, 28)
    state = model.state_dict()

    def layer(values: torch.Tensor, index: int) -> torch.Tensor:
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        values = F.conv2d(values, weight, bias, padding=2) if weight.dim() == 4 else F.linear(values, weight, bias)
        norm = [state[f"features.{index + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(values, *norm).relu()

    values = F.max_pool2d(layer(images, 0), 2)
    values = F.max_pool2d(layer(values, 4), 2)
    values = layer(values, 8).flatten(1)
    values = layer(layer(values, 12), 15)
    with torch.no_grad():
        torch.testing.assert_close(model(images), F.linear(values, state["head.weight"], state["head.bias"]))
        assert model(images).shape == (2, 7)


def test_windows_of_the_pooling_may_overlap() -> None:
    """As in M3SDA's network: sizes are halved, rounded up, whatever they are."""
    torch.manual_seed(0)
    model = CNN6(num_classes=7, image_shape=(3, 32, 32), pool=3).eval()
    assert model.features[12].in_features == 8192
    images = torch.randn(2, 3, 32, 32)
    first = model.features[:3](images)
    expected = F.max_pool2d(F.pad(first, (1, 1, 1, 1)), 3, 2)[..., :16, :16]  # what is behind a ReLU is not below 0
    torch.testing.assert_close(model.features[:4](images), expected)
    for size in (28, 29, 30, 31):
        assert CNN6(image_shape=(1, size, size), pool=3)(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.pool=4 is not possible: choose 2 or 3\.$"):
        CNN6(pool=4)


def test_batch_norm_behind_a_linear_layer_tells_of_two_images_only_which_has_more() -> None:
    """It makes one of them +1 and the other one -1, however far they are apart, but for the nearest, by its eps."""
    torch.manual_seed(0)
    pair = torch.randn(2, 3, 28, 28)
    with_norm, without = CNN6().train(), CNN6(linear_norm=False).train()
    normalized = with_norm.features[:14](pair)  # behind the first linear layer
    assert (normalized.abs() > 0.95).float().mean() > 0.9
    assert normalized.abs().max() <= 1
    torch.testing.assert_close(normalized[0], -normalized[1], atol=1e-3, rtol=0)
    assert (without.features[:14](pair).abs() > 0.95).float().mean() < 0.1


def test_without_norm_behind_linear_layers_it_trains_on_a_single_image() -> None:
    model = CNN6(linear_norm=False).train()
    assert count(model) == 14_219_210 - 2 * sum(WIDTHS)
    assert torch.isfinite(model(torch.randn(1, 3, 28, 28))).all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        CNN6().train()(torch.randn(1, 3, 28, 28))
