"""Replacement of layers of a model by type, at any depth."""

import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.core.errors import UserError

TORCH_NORM_LAYERS: tuple[type[nn.Module], ...] = (
    *(_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d),
)
"""The types of torch's layers that normalize activations."""


def timm_norm_layers() -> tuple[type[nn.Module], ...]:
    """Return the types of timm's, some of them with an activation; none where timm is not imported."""
    layers = sys.modules.get("timm.layers")
    return () if layers is None else _norms_of(layers)


@cache
def _norms_of(timm_layers: ModuleType) -> tuple[type[nn.Module], ...]:
    return tuple(
        kind
        for name, kind in vars(timm_layers).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and ("Norm" in name or name == "InplaceAbn")
        if not any(part in name for part in ("Conv", "Head", "Mlp"))  # blocks of several layers
    )


def replace_layers(
    model: nn.Module, types: tuple[type[nn.Module], ...], make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Replace each layer of the given types by ``make(layer)``, in place, and return the model.

    A layer that is registered several times is replaced by one new layer. A new one is as ``fitted`` to the old one.
    """
    if isinstance(model, types):
        return fitted(model, make(model))
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children omits a second name of a layer
            if isinstance(child, types):
                if child not in made:
                    made[child] = fitted(child, make(child))
                setattr(parent, name, made[child])
    _leave_fast_path(model)
    return model


def _leave_fast_path(model: nn.Module) -> None:
    """Let torch's transformer layers without LayerNorm call their layers at evaluation, too, in place.

    Their fast path reads the scale, shift and eps of two LayerNorms instead.
    """
    others: set[Any] = {
        layer
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer)
        and not (isinstance(layer.norm1, nn.LayerNorm) and isinstance(layer.norm2, nn.LayerNorm))
    }
    for layer in others:
        layer.activation_relu_or_gelu = 0  # what torch asks first; the activation itself is another attribute
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and not others.isdisjoint(encoder.layers):
            encoder.use_nested_tensor = False


def fitted(replaced: nn.Module, made: nn.Module) -> nn.Module:
    """Convert a new layer to the type of numbers, the device and the mode of the one that it replaces, and return it.

    A layer without floating-point numbers tells neither type nor device.
    """
    numbers = (tensor for tensor in (*replaced.parameters(), *replaced.buffers()) if tensor.is_floating_point())
    known = next(numbers, None)
    return (made if known is None else made.to(known)).train(replaced.training)


def has_layers(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(layer, kind) for layer in model.modules())


def replace_batch_norm(model: nn.Module, norm: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace each BatchNorm of any dimension by ``make(layer)``, in place, and return the model.

    The activation of timm's BatchNorms that have one stays.

    Raises:
        UserError: If there is none, since ``norm`` would silently have no effect.
    """
    refuse_layer_norm(model, norm)
    if not has_layers(model, _BatchNorm):
        raise UserError(
            f"norm={norm} replaces BatchNorm, and this network has none: "
            "choose norm=bn, which leaves it as it is, or another model."
        )
    return replace_layers(model, (_BatchNorm,), lambda layer: keep_activation(layer, make(layer)))


def refuse_layer_norm(model: nn.Module, norm: str) -> None:
    """Refuse a network that is written with LayerNorm and without BatchNorm, for a norm that only replaces the latter.

    Raises:
        UserError: If it is.
    """
    if has_layers(model, nn.LayerNorm) and not has_layers(model, _BatchNorm):
        raise UserError(
            f"norm={norm} takes the place of BatchNorm between convolutions, and this network has LayerNorm: choose "
            "norm=ln, which leaves it as it is, norm=rms, norm=crms, norm=powernorm, norm=unified, norm=bn, norm=none, "
            "or a model with BatchNorm, such as model=cnn_small."
        )


def keep_activation(replaced: nn.Module, norm: nn.Module) -> nn.Module:
    """Return ``norm``, followed by the dropout and the activation that timm's layers of norm and activation have.

    They are taken out of ``replaced``, in place, since it may still be a part of ``norm``.
    """
    behind = activation_of(replaced)
    if not behind:
        return norm
    replaced.drop, replaced.act = nn.Identity(), nn.Identity()
    return nn.Sequential(norm, *behind)


def activated(layer: nn.Module, normalized: torch.Tensor) -> torch.Tensor:
    """Return the output of ``layer`` for a normalized input: the same, or an activation of it in some of timm's."""
    for each in activation_of(layer):
        normalized = each(normalized)
    return normalized


def activation_of(layer: Any) -> tuple[nn.Module, ...]:
    """Return the dropout and the activation of one of timm's layers of norm and activation; none of another layer."""
    activation = getattr(layer, "act", None)
    return (layer.drop, activation) if isinstance(activation, nn.Module) else ()


class OnePixel(nn.Module):
    """Applies a layer for (N, C, H, W) to the (N, C) of a linear layer, as images of one pixel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(input[:, :, None, None])
        return output[:, :, 0, 0]


def replace_with_relu(model: nn.Module, norm: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace each BatchNorm and the ReLU after it by ``make(layer)``, in place, and return the model.

    Raises:
        UserError: If there is no BatchNorm, or one that is not followed by a ReLU in the same ``nn.Sequential``.
    """
    replaced = 0
    for parent in model.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for (place, layer), (after, activation) in pairwise(list(parent._modules.items())):
            if isinstance(layer, _BatchNorm) and isinstance(activation, nn.ReLU):
                setattr(parent, place, fitted(layer, make(layer)))
                setattr(parent, after, fitted(activation, nn.Identity()))
                replaced += 1
    left = [path for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if left or not replaced:
        where = f"{left[0]} is not" if left else "there is none"
        raise UserError(f"norm={norm} replaces each BatchNorm and the ReLU after it, and {where}: choose another norm.")
    return model


def channels_of(layer: nn.Module) -> int:
    """Return the number of channels of a BatchNorm, or of a LayerNorm over channels."""
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    assert isinstance(layer, _BatchNorm)
    return layer.num_features


def eps_of(layer: nn.Module, eps: float | None = None) -> float:
    """Return ``eps``, or if it is ``None`` the one of the BatchNorm or LayerNorm ``layer``."""
    assert isinstance(layer, _BatchNorm | nn.LayerNorm)
    return layer.eps if eps is None else eps


def affine_of(layer: nn.Module) -> bool:
    assert isinstance(layer, _BatchNorm)
    return layer.affine


@torch.no_grad()
def keep_affine(replaced: nn.Module, norm: nn.Module, channels: slice = slice(None)) -> nn.Module:
    """Copy the initial scale and shift of a layer to ``norm``, which replaces it, in place, and return ``norm``.

    A network may depend on them: in some the last scale of a residual branch starts at zero. If the layer has none
    (``affine=False``), those of ``norm`` become constants, one and zero. A shift is not copied to a norm without a
    shift. ``norm`` is ``fitted`` to the layer.

    Args:
        replaced: The BatchNorm or LayerNorm.
        norm: The layer that replaces it.
        channels: The channels of the BatchNorm that it replaces.
    """
    fitted(replaced, norm)
    for name in ("weight", "bias"):
        own, initial = norm._parameters.get(name), getattr(replaced, name)
        if own is None:
            continue
        if initial is None:
            hold(norm, name)
        else:
            own.copy_(initial[channels])
            own.requires_grad_(initial.requires_grad)
    return norm


def hold(norm: nn.Module, name: str) -> None:
    """Convert ``weight`` or ``bias`` of a norm, with its initial value, to a constant that is not in the state."""
    first = norm._parameters.pop(name)
    assert first is not None
    norm.register_buffer(name, first.detach(), persistent=False)


def of_features_only(norm: str, layer: nn.Module) -> nn.Module:
    """Return the layer, the replacement of a BatchNorm1d, with a hook that refuses inputs (N, C, L).

    It only accepts the (N, C) of linear layers, not the outputs of one-dimensional convolutions.

    Raises:
        UserError: In the forward pass, of which there is one before every run.
    """
    layer.register_forward_pre_hook(partial(_refuse_sequences, norm))
    return layer


def _refuse_sequences(norm: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    if args[0].dim() > 2:
        raise UserError(
            f"norm={norm} takes the place of BatchNorm1d behind linear layers alone, and here it is behind a "
            "one-dimensional convolution: choose norm=gn or norm=ln."
        )
