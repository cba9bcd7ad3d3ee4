"""``norm=none`` leaves no normalization, also not in shortcuts."""

import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.norms import norm_layers
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
