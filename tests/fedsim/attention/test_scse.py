"""Spatial and channel squeeze and excitation against its two terms in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.attention import SpatialChannelSE, use_scse
from fedsim.core.errors import UserError

FEATURES = torch.randn((2, 6, 3, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(("combine", "combined"), [("add", np.add), ("max", np.maximum)])
def test_it_combines_a_weight_per_channel_and_one_per_pixel(combine: str, combined: np.ufunc) -> None:
    torch.manual_seed(0)
    layer = SpatialChannelSE(6, reduction=2, combine=combine).double()
    state = {name: tensor.numpy().squeeze() for name, tensor in layer.state_dict().items()}
    x = FEATURES.numpy()
    hidden = np.maximum(0, x.mean((2, 3)) @ state["channel.squeeze.weight"].T + state["channel.squeeze.bias"])
    channel = sigmoid(hidden @ state["channel.excite.weight"].T + state["channel.excite.bias"])
    pixel = np.empty((2, 3, 5))
    for image, row, column in np.ndindex(2, 3, 5):
        logit = sum(state["spatial.weight"][c] * x[image, c, row, column] for c in range(6)) + state["spatial.bias"]
        pixel[image, row, column] = sigmoid(logit)
    expected = combined(x * channel[:, :, None, None], x * pixel[:, None])
    np.testing.assert_allclose(layer(FEATURES).detach().numpy(), expected, rtol=1e-12)


def test_another_combination_is_refused() -> None:
    with pytest.raises(UserError, match=r"^attention\.combine=mean is not known: choose add or max\.$"):
        use_scse(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), combine="mean")
