"""Common parts of standardized convolutions, for torch's six types of convolutions."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin

from fedsim.core.errors import UserError
from fedsim.norms.replace import replace_layers

CONVOLUTIONS: tuple[type[_ConvNd], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
SHAPE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def swap_channels(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a weight (C_in, C_out / groups, ...) of a transposed convolution as (C_out, C_in / groups, ...).

    The function is its own inverse.
    """
    swapped: torch.Tensor = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return swapped


def fan_in(conv: _ConvNd) -> int:
    """Return the number N of weights of one output channel.

    (With a stride, each output pixel of a transposed convolution is a sum over only a part of these weights;
    nevertheless the filter is standardized as a whole.)
    """
    return conv.weight.numel() // conv.out_channels


class StandardizedConvolution(_ConvNd):
    """Base class of standardized convolutions, to be combined with torch's class, which has the shapes and options."""

    @classmethod
    def copy_of(cls, conv: _ConvNd, *, bias: bool, **options: Any) -> Self:
        """Return the standardized convolution with the shape and the parameters of ``conv``.

        With ``bias=True`` it has a bias, which starts at zero if ``conv`` has none.
        """
        names = (*SHAPE, "output_padding") if conv.transposed else SHAPE
        like: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        layer = cls(**{name: getattr(conv, name) for name in names}, bias=bias, **like, **options)
        layer.weight = conv.weight  # the parameter object, which other layers may share
        if conv.bias is not None and layer.bias is not None:
            layer.bias = conv.bias
        elif layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def standardize(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight (C_out, C_in / groups, ...) with each output channel standardized by itself."""
        raise NotImplementedError

    def standardized_weight(self) -> torch.Tensor:
        """Return the standardized weight, in the shape of ``weight``."""
        raw = self.weight  # read once: a reparametrized weight is computed at every access
        if not self.transposed:
            return self.standardize(raw)
        return swap_channels(self.standardize(swap_channels(raw, self.groups)), self.groups)

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        weight = self.standardized_weight()
        if not isinstance(self, _ConvTransposeNd):
            return self._conv_forward(input, weight, self.bias)
        dimensions = len(self.kernel_size)
        sizes: Any = (output_size, self.stride, self.padding, self.kernel_size, dimensions, self.dilation)
        added = self._output_padding(input, *sizes)
        convolve: Any = TRANSPOSED[dimensions - 1]
        output: torch.Tensor = convolve(
            input,
            weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=added,
            groups=self.groups,
            dilation=self.dilation,
        )
        return output


def standardize_convolutions(
    model: nn.Module, norm: str, kinds: Mapping[type[_ConvNd], type[StandardizedConvolution]], **options: Any
) -> nn.Module:
    """Replace each convolution by the standardized one of its type, in place, and return the model.

    Raises:
        UserError: If there is no convolution, so that ``norm`` would silently have no effect, a convolution has more
            features than torch's own, which would be lost, or a fan-in of 1, so that its weights would be zero.
    """
    done = tuple(kinds.values())
    convolutions = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, _ConvNd)]
    if not convolutions:
        raise UserError(
            f"norm={norm} standardizes convolutions, and this network has none: choose another norm or model."
        )
    for path, conv in convolutions:
        lost = None if isinstance(conv, done) else _more_than_torchs(conv)
        if lost is not None:
            raise UserError(
                f"norm={norm} would replace {path or 'the network'}, a {type(conv).__name__} with {lost}, which a "
                "standardized convolution does not have: choose another norm or model."
            )
        if fan_in(conv) < 2:
            raise UserError(
                f"norm={norm} is not possible for a convolution with a fan-in of 1: choose another norm or model."
            )

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, _ConvNd)
        kind: Any = kinds[_kind_of(layer)]
        standardized: nn.Module = layer if isinstance(layer, done) else kind.like(layer, **options)
        return standardized

    return replace_layers(model, (_ConvNd,), make)


def _kind_of(conv: _ConvNd) -> type[_ConvNd]:
    return next((kind for kind in CONVOLUTIONS if isinstance(conv, kind)), _ConvNd)


def _more_than_torchs(conv: _ConvNd) -> str | None:
    """Return a description of what a convolution has beyond torch's six classes; ``None`` if nothing."""
    kind, own = _kind_of(conv), type(conv)
    if isinstance(conv, LazyModuleMixin):
        return "a shape that is not known yet"
    if own.forward is not kind.forward or own._conv_forward is not kind._conv_forward or "forward" in vars(conv):
        return "a forward of its own"
    if conv._parameters.keys() != {"weight", "bias"} or conv._buffers or conv._modules:
        return "parameters of its own"
    if any(getattr(conv, hooks) for hooks in HOOKS):
        return "hooks"
    return None
