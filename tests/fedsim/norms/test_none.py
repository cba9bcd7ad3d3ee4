"""``norm=none`` leaves no normalization, also not in shortcuts."""

import pytest
import timm.layers
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.norms import norm_layers, use_norm
from fedsim.norms.none import remove_norm


def test_no_norm_layer_is_left_in_resnet_and_its_shortcuts() -> None:
    model = remove_norm(resnet18(weights=None))
    assert not [name for name, layer in model.named_modules() if isinstance(layer, norm_layers())]
    assert isinstance(model.layer3[0].downsample[1], nn.Identity)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_only_the_normalization_is_missing_from_the_output() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))
    images = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    conv, linear = model[0], model[3]
    expected = linear(conv(images).flatten(1))
    torch.testing.assert_close(remove_norm(model)(images), expected, rtol=0, atol=0)


OTHERS = [
    *(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.RMSNorm(4), nn.LocalResponseNorm(2)),
    *(timm.layers.GroupNormAct(4, 2), timm.layers.RmsNorm(4)),
]


@pytest.mark.parametrize("norm", ["none", "sws", "ws"])
@pytest.mark.parametrize("other", OTHERS, ids=lambda layer: type(layer).__name__)
def test_a_network_whose_other_norm_layers_would_be_left_is_refused(norm: str, other: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), other)
    before = repr(model)
    sentence = rf"^norm={norm} would leave the {type(other).__name__} of this network in its place: choose"
    with pytest.raises(UserError, match=sentence):
        use_norm(model, norm)
    assert repr(model) == before


def test_layer_norms_beside_batch_norms_are_removed_or_told_of() -> None:
    def both() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4))

    assert [type(layer) for layer in use_norm(both(), "none")] == [nn.Conv2d, nn.Identity, nn.Identity]
    with pytest.raises(UserError, match=r"^norm=sws would leave the LayerNorm of this network in its place"):
        use_norm(both(), "sws")
