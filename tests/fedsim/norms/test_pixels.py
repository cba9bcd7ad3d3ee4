"""A channel of one pixel cannot be normalized by itself, which is said before anything is trained."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.models import CNNSmall
from fedsim.norms import check_pixels, use_norm


@pytest.mark.parametrize(
    ("norm", "model", "layer", "image_shape"),
    [
        ("in", resnet18, r"layer4\.0\.bn1", (3, 32, 32)),
        ("ibn_b", resnet18, r"bn1", (3, 2, 2)),
        ("frn", lambda: nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(3), nn.ReLU()), "1", (3, 8, 8)),
    ],
)
def test_the_first_layer_with_a_single_pixel_is_named(
    norm: str, model: object, layer: str, image_shape: tuple[int, int, int]
) -> None:
    network = use_norm(model(), norm)  # type: ignore[operator]
    size = f"{image_shape[1]}x{image_shape[2]}"
    with pytest.raises(UserError, match=rf"^norm={norm} .* of which {layer} gets a single one from images of {size}: "):
        check_pixels(network, norm, image_shape)
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_larger_images_pass_and_nothing_changes() -> None:
    network = use_norm(nn.Sequential(nn.Dropout(0.5), resnet18()), "in")
    network[1].layer1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    check_pixels(network, "in", (3, 33, 33))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_networks_of_other_norms_are_not_tried() -> None:
    check_pixels(use_norm(CNNSmall(image_shape=(3, 28, 28)), "gn"), "gn", (3, 8, 8))  # too small for this network


@pytest.mark.parametrize("norm", ["bcn", "evonorm_s0", "gn", "powernorm", "ws_gn"])
@pytest.mark.parametrize("options", [{"groups": 32}, {"channels_per_group": 1}], ids=str)
def test_a_group_of_a_single_value_is_refused(norm: str, options: dict[str, int]) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 32, 3), nn.AvgPool2d(2), nn.BatchNorm2d(32), nn.ReLU())

    model = use_norm(network(), norm, **options)
    with pytest.raises(UserError, match=rf"^norm={norm} leaves each group a single value in 2.* from images of 4x4: "):
        check_pixels(model, norm, (3, 4, 4))
    check_pixels(model, norm, (3, 6, 6))  # two by two pixels
    check_pixels(use_norm(network(), norm, groups=16), norm, (3, 4, 4))  # two channels


def test_the_only_channel_of_a_layer_norm_is_refused_too() -> None:
    model = use_norm(nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(1)), "ln")
    with pytest.raises(UserError, match=r"^norm=ln leaves each group a single value in 1,"):
        check_pixels(model, "ln", (1, 4, 4))
