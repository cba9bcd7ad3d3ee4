"""Batch-Channel Normalization: BatchNorm, then groups of channels with one scale and shift each."""

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.norms import ChannelNorm, EstimatedBatchNorm, use_batch_channel_norm


@pytest.mark.parametrize("shape", [(3, 8, 5, 4), (3, 8)])
def test_channels_are_normalized_in_groups_with_a_scale_for_each_group(shape: tuple[int, ...]) -> None:
    norm = ChannelNorm(2)
    scale, shift = torch.tensor([2.0, -3.0]), torch.tensor([0.5, 1.0])
    with torch.no_grad():
        norm.weight.copy_(scale)
        norm.bias.copy_(shift)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4 + 1
    groups = values.numpy().astype(np.float64).reshape(3, 2, -1)
    mean, variance = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    expected = (groups - mean) / np.sqrt(variance + 1e-5) * scale.numpy().reshape(1, 2, 1) + shift.numpy().reshape(
        1, 2, 1
    )
    np.testing.assert_allclose(norm(values).detach().numpy(), expected.reshape(shape), rtol=1e-4, atol=1e-5)


def test_it_comes_after_batch_norm_which_keeps_its_statistics() -> None:
    model = use_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(8)), groups=4)
    batch, channel = model[0]
    assert isinstance(batch, nn.BatchNorm2d)
    images = torch.randn((6, 8, 3, 3), generator=torch.Generator().manual_seed(0)) + 5
    torch.testing.assert_close(model(images), channel(nn.BatchNorm2d(8)(images)))
    assert batch.running_mean is not None
    torch.testing.assert_close(batch.running_mean, 0.1 * images.mean(dim=(0, 2, 3)))


def test_every_batch_norm_of_resnet_is_followed() -> None:
    model = use_batch_channel_norm(resnet18(weights=None))
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(nn.BatchNorm2d) == kinds.count(ChannelNorm) == 20
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


class Estimated:
    """The mode for micro-batches of a few channels as sums over plain numbers; the state is changed in place."""

    def __init__(self, channels: int, speed: float) -> None:
        self.speed, self.mean, self.variance = speed, np.zeros(channels), np.ones(channels)

    def step(self, x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
        y, dx, dgamma = np.zeros_like(x), np.zeros_like(x), np.zeros_like(gamma)
        for c in range(len(gamma)):
            values = [x[n, c][pixel] for n in range(len(x)) for pixel in np.ndindex(x.shape[2:])]
            spread = sum((value - self.mean[c]) ** 2 for value in values) / len(values)  # around the old mean
            self.mean[c] += self.speed * (sum(values) / len(values) - self.mean[c])
            self.variance[c] += self.speed * (spread - self.variance[c])
            deviation = np.sqrt(self.variance[c] + 1e-5)
            z = (x[:, c] - self.mean[c]) / deviation
            y[:, c], dx[:, c] = gamma[c] * z + beta[c], gamma[c] * dy[:, c] / deviation
            dgamma[c] = (dy[:, c] * z).sum()
        return y, dx, dgamma, dy.sum(axis=(0, *range(2, dy.ndim)))


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (1, 4, 3, 3), (6, 4), (1, 4)])
@pytest.mark.parametrize("speed", [0.1, 0.7, 1.0])
def test_estimated_statistics_move_first_and_are_constants_to_the_gradient(
    follow: object, shape: tuple[int, ...], speed: float
) -> None:
    reference, layer = Estimated(4, speed), EstimatedBatchNorm(4, speed)
    state = {"running_mean": reference.mean, "running_var": reference.variance}
    follow(layer, reference.step, [1, 3, 0.5, 2], shape, state)  # type: ignore[operator]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    mean, variance, gamma, beta = (
        np.asarray(each).reshape(1, 4, *(1,) * (x.dim() - 2))
        for each in (reference.mean, reference.variance, layer.weight.detach(), layer.bias.detach())
    )
    expected = gamma * (x.numpy() - mean) / np.sqrt(variance + 1e-5) + beta
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(layer.running_mean, reference.mean, rtol=1e-10)  # as training left it


def test_estimated_batch_norms_have_the_eps_of_those_they_replace() -> None:
    model = use_batch_channel_norm(
        nn.Sequential(nn.BatchNorm2d(8, eps=0.5), nn.BatchNorm2d(4)), groups=4, estimated=True, moving_speed=0.3
    )
    batches = [layer for layer in model.modules() if isinstance(layer, EstimatedBatchNorm)]
    assert [(len(each.weight), each.eps, each.moving_speed) for each in batches] == [(8, 0.5, 0.3), (4, 1e-5, 0.3)]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"norm\.groups=3 does not divide the 8 channels"):
        use_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(8)), groups=3)


@pytest.mark.parametrize("estimated", [False, True])
def test_the_activation_of_timms_batch_norms_comes_once_and_last(estimated: bool) -> None:
    own = timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Dropout).double()
    nn.init.uniform_(own.weight, 0.5, 1.5)
    scale = own.weight.detach().numpy().copy()[:, None, None]
    mean, variance = (np.linspace(*bounds, 8)[:, None, None] for bounds in ((-1, 1), (0.5, 2)))
    model = use_batch_channel_norm(nn.Sequential(own), groups=2, estimated=estimated).double().eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.from_numpy((mean if name.endswith("mean") else variance).ravel()))
    images = 2 * torch.randn(5, 8, 3, 3, dtype=torch.float64) + 1
    x = scale * (images.numpy() - mean) / np.sqrt(variance + own.eps)
    groups = x.reshape(5, 2, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    normalized = (centred / np.sqrt(groups.var(-1, keepdims=True) + own.eps)).reshape(x.shape)
    expected = normalized / (1 + np.exp(-normalized))
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    behind = [type(layer) for layer in model.modules() if isinstance(layer, nn.Dropout | nn.SiLU)]
    assert behind == [nn.Dropout, nn.SiLU]
