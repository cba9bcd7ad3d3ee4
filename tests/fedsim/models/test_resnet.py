"""Residual networks: the published numbers of parameters, the stems, and the shortcut of CIFAR's."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18 as torchvisions

from fedsim.core.errors import UserError
from fedsim.models import ResNet20, resnet18, resnet34


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet20_has_the_published_number_of_parameters() -> None:
    stage = [9 * 16 * 16 * 6, 9 * (16 * 32 + 5 * 32 * 32), 9 * (32 * 64 + 5 * 64 * 64)]
    norms = 2 * (16 + 6 * (16 + 32 + 64))
    assert parameters(ResNet20()) == 9 * 3 * 16 + sum(stage) + norms + 650 == 269_722


def test_resnet20_shortcuts_pass_every_second_pixel_and_pad_with_zeros() -> None:
    [shortcut] = [block.downsample for block in ResNet20().features if getattr(block, "stride", 1) == 2][:1]
    images = torch.randn(2, 16, 8, 8)
    output = shortcut(images)
    assert output.shape == (2, 32, 4, 4)
    assert torch.equal(output[:, 8:24], images[:, :, ::2, ::2])
    assert not output[:, :8].any()
    assert not output[:, 24:].any()


def test_a_small_stem_keeps_the_size_of_the_images() -> None:
    small, large = resnet18(image_shape=(3, 32, 32)), resnet18(image_shape=(3, 64, 64))
    sizes = {}
    for name, model in (("small", small), ("large", large)):
        model.layer1.register_forward_hook(lambda *args, name=name: sizes.update({name: args[2].shape[2:]}))
        model(torch.zeros(2, 3, 64, 64))
    assert sizes == {"small": (64, 64), "large": (16, 16)}
    assert parameters(large) == parameters(torchvisions(num_classes=10))
    assert parameters(small) == parameters(large) - 64 * 3 * (49 - 9)


@pytest.mark.parametrize(("stem", "size", "kernel"), [("3x3", 224, 3), ("7x7", 32, 7), (None, 63, 3), (None, 64, 7)])
def test_the_stem_is_the_one_asked_for_or_that_suits_the_images(stem: str | None, size: int, kernel: int) -> None:
    assert resnet34(image_shape=(3, size, size), stem=stem).conv1.kernel_size == (kernel, kernel)


@pytest.mark.parametrize("size", [(1, 28, 28), (1, 96, 96)])
def test_grey_images_are_taken(size: tuple[int, int, int]) -> None:
    assert resnet18(7, size)(torch.zeros(2, *size)).shape == (2, 7)
    assert ResNet20(7, size)(torch.zeros(2, *size)).shape == (2, 7)


def test_another_stem_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.stem=5x5 is not known: choose 3x3 or 7x7"):
        resnet18(stem="5x5")
