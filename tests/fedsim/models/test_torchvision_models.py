"""torchvision's networks by name, with as many classes as there are."""

from collections.abc import Callable
from itertools import pairwise
from subprocess import CompletedProcess

import pytest
import torch
from torch import nn
from torchvision import models

from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import build_model, mobilenet_v2, torchvision_model, vgg11


def test_vgg11_has_eight_convolutions_and_one_linear_layer() -> None:
    model = vgg11(7)
    kinds = [type(layer) for layer in model.modules()]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d), kinds.count(nn.Linear)) == (8, 8, 1)
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = sum((9 * a + 1) * b for a, b in pairwise(widths))
    expected = convolutions + 2 * sum(widths[1:]) + 513 * 7
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert vgg11(7, (1, 40, 32))(torch.zeros(2, 1, 40, 32)).shape == (2, 7)


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (63, 1), (64, 2), (224, 2)])
def test_mobilenet_begins_gently_on_small_images(size: int, stride: int) -> None:
    model = mobilenet_v2(10, (3, size, size))
    assert model.features[0][0].stride == (stride, stride)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in models.mobilenet_v2(num_classes=10).parameters()
    )


def test_any_network_of_torchvision_is_a_choice(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("model=torchvision/squeezenet1_1")
    assert settings.model["name"] == "torchvision/squeezenet1_1"
    model = build_model(settings, 7, (3, 64, 64))
    assert type(model) is type(models.squeezenet1_1(num_classes=7))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.nightly
def test_the_settings_of_any_network_can_be_printed_and_swept(run_py: Callable[..., CompletedProcess[str]]) -> None:
    shown = run_py("--cfg", "job", "model=torchvision/densenet121", small=False)
    assert "network: densenet121" in shown.stdout
    networks = "model=torchvision/squeezenet1_1,cnn_small"
    swept = run_py("-m", "rounds=1", "engine=inline", networks, "dataset.image_size=28", "out_dir=sweep")
    assert swept.returncode == 0, swept.stderr
    assert "squeezenet1_1 with bn" in swept.stdout


def test_a_norm_replaces_that_of_any_network(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("model=torchvision/shufflenet_v2_x0_5", "norm=gn", "norm.groups=1")
    kinds = [type(layer) for layer in build_model(settings, 7, (3, 64, 64)).modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) > 10


def test_what_torchvision_has_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model=torchvision/resnet9000 is not known: choose .*resnet101"):
        torchvision_model(10, (3, 224, 224), "resnet9000")
    with pytest.raises(UserError, match="1 channels"):
        torchvision_model(10, (1, 224, 224), "resnet18")
    for name in ("torchvision", "torchvision/", "torchvision/a-b", "other/resnet18"):
        with pytest.raises(UserError, match=r"^model=.* is not known: choose alexnet, "):
            compose([f"model={name}"])
