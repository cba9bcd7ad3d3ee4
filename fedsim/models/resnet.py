"""``model=resnet18``, ``resnet34`` and ``resnet20``: residual networks (He et al. 2016, arXiv 1512.03385).

The first two are torchvision's, optionally with a stem for small images; the third is the paper's network for CIFAR.
"""

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError

SMALL_IMAGE = 64
"""The size in pixels below which the large stem would reduce the image too much."""


def resnet18(
    num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32), stem: str | None = None
) -> nn.Module:
    """Build torchvision's ResNet-18 (He et al. 2016, arXiv 1512.03385), optionally with a stem for small images.

    Takes images (N, *image_shape), returns logits (N, num_classes).

    The ``stem`` ``"3x3"`` is one 3x3 convolution of stride 1 without pooling, as is usual for CIFAR; ``"7x7"`` is the
    paper's, which reduces height and width by a factor of four; ``None`` is ``"3x3"`` for images below 64 pixels.

    Raises:
        UserError: If ``stem`` is unknown.
    """
    from torchvision import models  # which takes seconds to import

    return _with_stem(models.resnet18(num_classes=num_classes), image_shape, stem)


def resnet34(
    num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32), stem: str | None = None
) -> nn.Module:
    """Build torchvision's ResNet-34, which is as ``resnet18`` with 34 layers."""
    from torchvision import models

    return _with_stem(models.resnet34(num_classes=num_classes), image_shape, stem)


def _with_stem(network: nn.Module, image_shape: tuple[int, int, int], stem: str | None) -> nn.Module:
    if stem not in ("3x3", "7x7", None):
        raise UserError(f"model.stem={stem} is not known: choose 3x3 or 7x7, or null for what suits the images.")
    channels, height, width = image_shape
    small = stem == "3x3" or (stem is None and min(height, width) < SMALL_IMAGE)
    if small:
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return network


class _Shortcut(nn.Module):
    """The paper's option A: every second pixel, and zeros for the additional channels."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.pad(input[:, :, ::2, ::2], (0, 0, 0, 0, self.new_channels // 2, self.new_channels // 2))


class ResNet20(nn.Module):
    """ResNet-20 of section 4.2, with n = 3: three stages of 16, 32 and 64 channels, 269,722 parameters for ten
    classes.

    Takes images (N, channels, height, width) of any size, returns logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        stem = (nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks, width = [], 16
        for channels in (16, 32, 64):
            shortcut = _Shortcut(channels - width) if channels != width else None
            blocks.append(BasicBlock(width, channels, stride=1 if shortcut is None else 2, downsample=shortcut))
            blocks += [BasicBlock(channels, channels) for _ in range(2)]
            width = channels
        self.features = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images))
        return logits
