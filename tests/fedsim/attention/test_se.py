"""Squeeze and excitation against timm's and against a loop in float64."""

import math

import numpy as np
import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from torch import nn

from fedsim.attention import SqueezeExcitation, use_se
from fedsim.core.errors import UserError

FEATURES = torch.randn((3, 8, 4, 5), generator=torch.Generator().manual_seed(0))


def test_it_is_timms() -> None:
    torch.manual_seed(0)
    mine, theirs = SqueezeExcitation(8, reduction=3), SEModule(8, rd_channels=2)
    theirs.fc1.load_state_dict(mine.squeeze.state_dict())
    theirs.fc2.load_state_dict(mine.excite.state_dict())
    torch.testing.assert_close(mine(FEATURES), theirs(FEATURES))


def test_it_is_the_formula() -> None:
    torch.manual_seed(1)
    layer = SqueezeExcitation(8, reduction=2).double()
    w1, b1 = layer.squeeze.weight[:, :, 0, 0].tolist(), layer.squeeze.bias.tolist()
    w2, b2 = layer.excite.weight[:, :, 0, 0].tolist(), layer.excite.bias.tolist()
    x = FEATURES.double().numpy()
    expected = np.empty_like(x)
    for image in range(3):
        mean = [x[image, channel].mean() for channel in range(8)]
        hidden = [max(0.0, b1[unit] + sum(w * m for w, m in zip(w1[unit], mean, strict=True))) for unit in range(4)]
        for channel in range(8):
            logit = b2[channel] + sum(w * h for w, h in zip(w2[channel], hidden, strict=True))
            expected[image, channel] = x[image, channel] / (1 + math.exp(-logit))
    np.testing.assert_allclose(layer(FEATURES.double()).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("reduction", [0, -1, 9])
def test_a_reduction_that_leaves_nothing_is_refused(reduction: int) -> None:
    sentence = (
        rf"^attention\.reduction={reduction} is not possible for the 8 channels of a layer of this model: "
        r"choose a whole number from 1 to 8\.$"
    )
    with pytest.raises(UserError, match=sentence):
        use_se(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), reduction=reduction)
