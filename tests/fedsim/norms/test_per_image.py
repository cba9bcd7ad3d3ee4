"""Layer, Instance and RMS Normalization in the place of BatchNorm, against their definitions in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.norms import ChannelRMSNorm, use_instance_norm, use_layer_norm, use_rms_norm

IMAGES = 3 + 2 * torch.randn((4, 6, 5, 7), generator=torch.Generator().manual_seed(0))
FEATURES = 3 + 2 * torch.randn((4, 6), generator=torch.Generator().manual_seed(1))
EPS = 1e-5


def standardized(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    values = values.astype(np.float64)
    mean, variance = values.mean(axis=axes, keepdims=True), values.var(axis=axes, keepdims=True)
    return (values - mean) / np.sqrt(variance + EPS)


@pytest.mark.parametrize(("layer", "input"), [(nn.BatchNorm2d(6), IMAGES), (nn.BatchNorm1d(6), FEATURES)])
def test_layer_norm_is_over_channels_and_pixels(layer: nn.Module, input: torch.Tensor) -> None:
    output = use_layer_norm(nn.Sequential(layer))(input).detach().numpy()
    np.testing.assert_allclose(output, standardized(input.numpy(), tuple(range(1, input.dim()))), atol=1e-5)


def test_instance_norm_is_over_the_pixels_of_a_channel() -> None:
    output = use_instance_norm(nn.Sequential(nn.BatchNorm2d(6)))(IMAGES).detach().numpy()
    np.testing.assert_allclose(output, standardized(IMAGES.numpy(), (2, 3)), atol=1e-5)


def test_instance_norm_has_a_scale_and_leaves_features_alone() -> None:
    model = use_instance_norm(nn.Sequential(nn.BatchNorm2d(6), nn.Flatten(), nn.BatchNorm1d(210)))
    assert [tuple(each.shape) for each in model.parameters()] == [(6,), (6,)]
    assert torch.equal(model(IMAGES), model[0](IMAGES).flatten(1))


@pytest.mark.parametrize(("layer", "input"), [(nn.BatchNorm2d(6), IMAGES), (nn.BatchNorm1d(6), FEATURES)])
def test_rms_norm_divides_by_the_root_mean_square(layer: nn.Module, input: torch.Tensor) -> None:
    model = use_rms_norm(nn.Sequential(layer))
    norm = model[0]
    assert isinstance(norm, ChannelRMSNorm)
    scale = torch.arange(1.0, 7.0)
    with torch.no_grad():
        norm.weight.copy_(scale)
    values = input.numpy().astype(np.float64)
    mean_square = (values**2).mean(axis=tuple(range(1, values.ndim)), keepdims=True)
    shape = (1, 6) + (1,) * (values.ndim - 2)
    expected = values / np.sqrt(mean_square + EPS) * scale.numpy().reshape(shape)
    np.testing.assert_allclose(model(input).detach().numpy(), expected, rtol=1e-5)


def test_rms_norm_of_features_is_torchs() -> None:
    torch.testing.assert_close(ChannelRMSNorm(6, eps=EPS)(FEATURES), nn.RMSNorm(6, eps=EPS)(FEATURES))


@pytest.mark.parametrize("use", [use_layer_norm, use_instance_norm, use_rms_norm])
def test_an_image_is_normalized_whatever_else_is_in_the_batch_and_whatever_its_size(use: object) -> None:
    model = use(resnet18(weights=None))  # type: ignore[operator]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    model.train()
    images = torch.randn((3, 3, 64, 64), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-4)
    assert model(images[:, :, :48, :32]).shape == (3, 1000)


def test_an_eps_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UserError, match=r"^norm\.eps=0 is not possible: choose a number above 0\.$"):
        use_rms_norm(nn.BatchNorm2d(4), eps=0)
