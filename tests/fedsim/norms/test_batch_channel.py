"""Batch-Channel Normalization: BatchNorm, then groups of channels with one scale and shift each."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.errors import UserError
from fedsim.norms import ChannelNorm, use_batch_channel_norm


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


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"norm\.groups=3 does not divide the 8 channels"):
        use_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(8)), groups=3)
