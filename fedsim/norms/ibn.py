"""``norm=ibn_a`` and ``norm=ibn_b``: IBN-Net (Pan et al., ECCV 2018, arXiv 1807.09441) in residual networks."""

from typing import Any

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.loaded import loaded
from fedsim.norms.replace import affine_of, channels_of, eps_of, fitted, keep_affine
from fedsim.norms.residual import RESNET, residual_blocks, residual_branch, shortcut


class InstanceBatchNorm2d(nn.Module):
    """InstanceNorm for the first half of the channels, BatchNorm for the others; takes (N, C, H, W), C at least 2.

    InstanceNorm removes the style of an image, while BatchNorm preserves the differences between classes. InstanceNorm
    has a scale and a shift but no running statistics, so that with ``norm.policy`` only the BatchNorm can be local.
    """

    @classmethod
    def like(cls, layer: nn.BatchNorm2d) -> "InstanceBatchNorm2d":
        """Return the replacement for ``layer``, with its options, initial scales and shifts."""
        norm = cls(layer.num_features, eps=layer.eps, momentum=layer.momentum, affine=layer.affine)
        for half, channels in ((norm.instance, slice(norm.by_image)), (norm.batch, slice(norm.by_image, None))):
            keep_affine(layer, half, channels)
        return norm

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True) -> None:
        super().__init__()
        self.by_image = channels // 2
        self.instance = nn.InstanceNorm2d(self.by_image, eps=eps, affine=affine)
        self.batch = nn.BatchNorm2d(channels - self.by_image, eps=eps, momentum=momentum, affine=affine)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self.instance(input[:, : self.by_image].contiguous()), self.batch(input[:, self.by_image :])], dim=1
        )


class NormalizedSum(nn.Module):
    """A residual block that normalizes each image after the addition, before the ReLU."""

    def __init__(self, block: Any, channels: int) -> None:
        super().__init__()
        self.block = block
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(residual_branch(self.block, input) + shortcut(self.block, input)))


def use_ibn_a(model: nn.Module) -> nn.Module:
    """Replace the first BatchNorm of each block of the first three stages by half InstanceNorm and half BatchNorm.

    Raises:
        UserError: If the model is not one of torchvision's residual networks.
    """
    for stage in _stages(model, "ibn_a")[:3]:
        for block in stage:
            assert isinstance(block.bn1, nn.BatchNorm2d)
            block.bn1 = fitted(block.bn1, InstanceBatchNorm2d.like(block.bn1))
    return model


def use_ibn_b(model: nn.Module) -> nn.Module:
    """Use InstanceNorm in the stem, and after the addition of the last block of each of the first two stages.

    Raises:
        UserError: If the model is not one of torchvision's residual networks.
    """
    stages = _stages(model, "ibn_b")
    assert isinstance(model.bn1, nn.Module)
    stem = nn.InstanceNorm2d(channels_of(model.bn1), eps=eps_of(model.bn1), affine=affine_of(model.bn1))
    model.bn1 = keep_affine(model.bn1, stem)
    for stage in stages[:2]:
        last = stage[-1]
        assert isinstance(last, residual_blocks())
        norms = [layer for name, layer in last.named_children() if name.startswith("bn")]
        summed = NormalizedSum(last, channels_of(norms[-1])).train(last.training)
        fitted(norms[-1], summed.norm)
        stage[-1] = summed
    return model


def _stages(model: nn.Module, name: str) -> list[nn.Sequential]:
    if not isinstance(model, loaded(RESNET, "ResNet")):
        raise UserError(
            f"norm={name} has its places in a residual network of four stages: "
            "choose model=resnet18, resnet34 or torchvision/resnet50, or another norm."
        )
    network: Any = model
    return [network.layer1, network.layer2, network.layer3, network.layer4]
