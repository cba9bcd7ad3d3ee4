"""Group Normalization in the place of BatchNorm, against its definition in numpy."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.norms.group import use_group_norm


def group_normalized(values: np.ndarray, groups: int) -> np.ndarray:
    """Wu & He's Eq. 1 to 4 with gamma = 1 and beta = 0."""
    by_group = values.astype(np.float64).reshape(len(values), groups, -1)
    mean, variance = by_group.mean(axis=2, keepdims=True), by_group.var(axis=2, keepdims=True)
    return ((by_group - mean) / np.sqrt(variance + 1e-5)).reshape(values.shape)


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm2d(8), (3, 8, 5, 5)), (nn.BatchNorm1d(8), (3, 8))])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_output_is_normalized_within_each_group(layer: nn.Module, shape: tuple[int, ...], groups: int) -> None:
    model = use_group_norm(nn.Sequential(layer), groups)
    values = 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(model(values).detach().numpy(), group_normalized(values.numpy(), groups), atol=1e-5)


def test_every_batch_norm_of_resnet_becomes_a_group_norm_of_its_channels() -> None:
    model = resnet18(weights=None)
    channels = [layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    use_group_norm(model, groups=32)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    assert [layer.num_channels for layer in norms] == channels
    assert {layer.num_groups for layer in norms} == {32}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize("groups", [0, -2, 3, 16])
def test_groups_that_do_not_divide_the_channels_are_refused(groups: int) -> None:
    with pytest.raises(UserError, match=rf"norm.groups={groups} does not divide the 8 channels.*a divisor of 8, or "):
        use_group_norm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), groups)
