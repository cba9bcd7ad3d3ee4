"""``norm=dse``: FDSE's decomposed layers (Wang et al., CVPR 2025, arXiv 2503.13063) in front of each BatchNorm."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.norms.checks import check_count
from fedsim.norms.replace import fitted

KERNEL_SIZE = 3
"""Of the depthwise convolution behind a convolution; behind a linear layer it is 1."""


class SkewEraser(nn.Module):
    r"""The domain-specific skew eraser: BatchNorm, and cheap further channels made of each channel by itself.

    .. math:: z = \mathrm{BN}(x), \qquad y = [z, D(z)]

    with a depthwise convolution D of ``ratio`` - 1 outputs for each of C channels, without a bias. Takes (N, C, H, W),
    or (N, C) as images of one pixel, and returns ``ratio`` times as many channels. In FDSE every client has its own.
    """

    def __init__(self, channels: int, ratio: int, kernel_size: int) -> None:
        super().__init__()
        further = channels * (ratio - 1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, further, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        images = input if input.dim() == 4 else input[:, :, None, None]
        plain = self.norm(images)
        output = torch.cat([plain, self.conv(plain)], dim=1)
        return output if input.dim() == 4 else output[:, :, 0, 0]


class ErasingLayer(nn.Module):
    """A convolution or linear layer with 1 / ``ratio`` of the outputs, the domain-agnostic feature extractor, and a
    skew eraser behind it that makes the others; then a bias. Takes and returns what the layer does.

    As in the authors' code (WwZzz/FDSE_CVPR25, 01f7bd7, ``DSEConv`` and ``DSELinear`` with their defaults), whose last
    BatchNorm and ReLU are those of the network here. The extractor has a bias, too.

    Args:
        layer: The layer that it replaces, whose shape it has; its weights are drawn anew.
        ratio: Number of outputs for each of the extractor's, at least 2; superfluous ones are cut off.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, ratio: int = 2) -> None:
        super().__init__()
        self.extractor: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Conv2d):
            self.out_channels, kernel_size = layer.out_channels, KERNEL_SIZE
            extracted = -(-self.out_channels // ratio)
            self.extractor = nn.Conv2d(
                layer.in_channels,
                extracted,
                layer.kernel_size,  # type: ignore[arg-type]  # a tuple of as many as torch's stub would allow
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                padding_mode=layer.padding_mode,
            )
        else:
            self.out_channels, kernel_size = layer.out_features, 1
            extracted = -(-self.out_channels // ratio)
            self.extractor = nn.Linear(layer.in_features, extracted)
        self.eraser = SkewEraser(extracted, ratio, kernel_size)
        self.bias = nn.Parameter(torch.zeros(self.out_channels))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.eraser(self.extractor(input))[:, : self.out_channels]
        return output + self.bias.view(1, -1, *(1,) * (output.dim() - 2))


def skew_erasers(model: nn.Module) -> dict[str, SkewEraser]:
    """Return the erasers of the model by name."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: layer for name, layer in modules if isinstance(layer, SkewEraser)}


def deskewed_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers by name that are not part of an eraser: in FDSE, those behind one."""
    inside = tuple(f"{name}." for name in skew_erasers(model))
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not name.startswith(inside)
    }


def use_skew_erasers(model: nn.Module, ratio: int = 2) -> nn.Module:
    """Replace each convolution and linear layer in front of a BatchNorm by an ``ErasingLayer``; BatchNorm stays.

    Raises:
        UserError: If there is no BatchNorm, one that is not behind such a layer in the same ``nn.Sequential``, one
            behind a convolution in groups, or ``ratio`` is below 2.
    """
    check_count("ratio", ratio, least=2)
    left = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if not left:
        raise UserError(
            "norm=dse takes layers in front of BatchNorm apart, and this network has none: choose norm=bn, or another "
            "model."
        )
    for path, parent in list(model.named_modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        for (place, layer), (after, norm) in pairwise(list(parent._modules.items())):
            plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
            if isinstance(norm, _BatchNorm) and plain:
                assert isinstance(layer, nn.Conv2d | nn.Linear)
                setattr(parent, place, fitted(layer, ErasingLayer(layer, ratio)))
                left.remove(f"{path}.{after}" if path else after)
    if left:
        raise UserError(
            "norm=dse takes a convolution of one group, or a linear layer, in front of each BatchNorm of the same "
            f"nn.Sequential apart, and {left[0]} has none there: choose another norm, or model=cnn_small."
        )
    return model
