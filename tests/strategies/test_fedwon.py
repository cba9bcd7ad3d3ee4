"""FedWon: which networks it takes, and that all of them travels."""

from collections.abc import Callable

import pytest
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn
from torchvision.models import resnet18

from fedsim.attention import use_ela, use_scse, use_se
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import arrays_of
from fedsim.models import CNN6
from fedsim.norms import (
    ScaledWSConv2d,
    ScaledWSConvolution,
    norm_layers,
    remove_norm,
    use_group_norm,
    use_scaled_ws,
    use_ws,
)
from strategies import FedWon


@pytest.mark.parametrize("make", [CNN6, lambda: resnet18(weights=None)], ids=["cnn6", "resnet18"])
def test_every_norm_layer_is_gone_and_every_convolution_standardized(make: Callable[[], nn.Module]) -> None:
    model = use_scaled_ws(make())
    FedWon(model)
    assert not [layer for layer in model.modules() if isinstance(layer, norm_layers())]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert convolutions
    assert all(isinstance(layer, ScaledWSConv2d) and layer.bias is not None for layer in convolutions)


def test_everything_travels_gains_included(grid: InlineGrid) -> None:
    model = use_scaled_ws(CNN6())
    messages = FedWon(model).configure_train(1, ArrayRecord(model.state_dict()), ConfigRecord(), grid)
    sent = set(arrays_of(next(iter(messages))))
    assert sent == set(model.state_dict())
    assert len([name for name in sent if name.endswith("gain")]) == 3


@pytest.mark.parametrize(
    ("model", "has"),
    [
        (CNN6(), "BatchNorm1d, BatchNorm2d"),
        (use_group_norm(CNN6()), "GroupNorm"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "no standardized convolution"),
        (nn.Linear(4, 2), "no standardized convolution"),
        (use_ws(nn.Conv1d(1, 1, 2)), "no standardized convolution"),
        (
            nn.Sequential(use_scaled_ws(nn.Conv2d(1, 1, 2)), nn.Sequential(nn.ConvTranspose2d(1, 1, 2))),
            r"1\.0, a ConvTranspose2d that is not standardized",
        ),
        (
            nn.Sequential(use_scaled_ws(nn.Conv2d(1, 1, 2)), nn.Conv1d(1, 1, 2)),
            "1, a Conv1d that is not standardized",
        ),
        (use_ela(use_scaled_ws(CNN6())), "GroupNorm"),
    ],
    ids=["bn", "gn", "plain", "none", "ws", "transposed", "1d", "ela"],
)
def test_another_network_is_refused(model: nn.Module, has: str) -> None:
    with pytest.raises(UserError, match=rf"this network has {has}: leave norm out or choose norm=sws"):
        FedWon(model)


def test_the_ablation_without_standardization_is_for_a_network_without_any_normalization() -> None:
    assert FedWon(remove_norm(CNN6()), standardized=False).weighting == "examples"
    with pytest.raises(UserError, match="and this one has ScaledWSConv2d: choose norm=none"):
        FedWon(use_scaled_ws(CNN6()), standardized=False)
    with pytest.raises(UserError, match="and this one has BatchNorm1d, BatchNorm2d: choose norm=none"):
        FedWon(CNN6(), standardized=False)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose3d])
def test_standardized_convolutions_of_every_kind_are_taken(kind: Callable[..., nn.Module]) -> None:
    model = use_scaled_ws(nn.Sequential(kind(2, 2, 2), nn.ConvTranspose2d(2, 2, 2)))
    FedWon(model)
    assert all(isinstance(layer, ScaledWSConvolution) for layer in model)


@pytest.mark.parametrize("use", [use_se, use_scse])
def test_an_attention_beside_them_has_convolutions_of_its_own(use: Callable[..., nn.Module]) -> None:
    model = use(use_scaled_ws(CNN6()))
    assert any(type(layer) is nn.Conv2d for layer in model.modules())
    FedWon(model)
