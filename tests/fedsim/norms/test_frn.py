"""Filter Response Normalization in the place of BatchNorm and ReLU, against the paper's formula in float64."""

import numpy as np
import pytest
import torch
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.models import CNN6
from fedsim.norms import use_frn


def test_a_channel_is_divided_by_its_root_mean_square_and_cut_off_at_the_threshold() -> None:
    model = use_frn(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()), eps=0.1)
    layer, gamma, beta, tau = model[0], np.linspace(-2, 2, 6), np.linspace(1, 0, 6), np.linspace(-1, 1, 6)
    with torch.no_grad():
        for parameter, values in ((layer.weight, gamma), (layer.bias, beta), (layer.tau, tau)):
            parameter.copy_(torch.from_numpy(values))
    images = 0.3 + 2 * torch.randn((3, 6, 4, 5), generator=torch.Generator().manual_seed(0))
    x = images.numpy().astype(np.float64)
    expected = np.zeros_like(x)
    for n, c in np.ndindex(3, 6):
        response = x[n, c] / np.sqrt((x[n, c] ** 2).mean() + 0.1)
        expected[n, c] = np.maximum(gamma[c] * response + beta[c], tau[c])
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert 0 < (expected == tau.reshape(6, 1, 1)).mean() < 1


def test_a_linear_layer_keeps_its_relu_and_has_no_norm() -> None:
    model = use_frn(CNN6(10))
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(FilterResponseNormTlu2d) == 3
    assert kinds.count(nn.ReLU) == 2
    assert not {nn.BatchNorm1d, nn.BatchNorm2d} & set(kinds)
    features = torch.randn((5, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(use_frn(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))(features), features.relu())


def test_a_network_whose_relu_stands_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"^norm=frn replaces each BatchNorm and the ReLU after it, and bn1 is not"):
        use_frn(resnet18())
