"""Masks of active weights, and the form in which masks and active weights are sent."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.models.classifier import known_ends

Tensors = Mapping[str, torch.Tensor]
Masks = dict[str, torch.Tensor]
"""By name of the layer: a boolean tensor in the shape of its weight, true where the weight is active."""
BITS = 8


def entry(layer: str) -> str:
    """Return the name of a layer's weight in the model's state."""
    return f"{layer}.weight"


def prunable_layers(model: nn.Module, dense: Collection[str] = ("first",)) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers that may be pruned by name, in the order of the model.

    Args:
        model: The network.
        dense: Layers that stay dense: names, or ``first`` or ``last`` for the layer that is computed first or last.
            Biases and norm layers are always dense.

    Raises:
        UserError: If a name is not that of a convolution or linear layer, or no layer remains.
    """
    parameters = dict(model.named_parameters())
    layers: dict[str, nn.Module] = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and entry(name) in parameters
    }
    dense = [dense] if isinstance(dense, str) else dense
    names, known = list(layers), known_ends(model)
    ends = {"first": names[:1], "last": names[-1:]}
    if known is not None:  # the layer computed first or last may be registered elsewhere
        found = {"first": (known.first,), "last": known.last}
        ends = {end: [name for name in names if name in found[end]] or ends[end] for end in ends}
    kept_dense = {name for word in dense for name in ends.get(word, [word])}
    unknown = sorted(kept_dense - layers.keys())
    if unknown:
        raise UserError(f"strategy.dense={unknown[0]} is no layer of this network: choose first, last, or {names}.")
    left = {name: layer for name, layer in layers.items() if name not in kept_dense}
    if not left:
        raise UserError(f"strategy.dense={list(dense)} leaves no layer to prune: choose fewer.")
    return left


def trained_layers(model: nn.Module, dense: Collection[str]) -> dict[str, nn.Module]:
    """Return the layers that may be pruned, as ``prunable_layers`` does.

    Raises:
        UserError: Also if one of them is frozen.
    """
    layers, parameters = prunable_layers(model, dense), dict(model.named_parameters())
    frozen = [name for name in layers if not parameters[entry(name)].requires_grad]
    if frozen:
        raise UserError(
            f"strategy.dense={list(dense)} has the layer {frozen[0]} pruned, which is frozen: name it there, or "
            "leave out what freezes it."
        )
    return layers


def keep_largest(scores: Tensors, counts: Mapping[str, int]) -> Masks:
    """Return masks of the ``counts`` largest scores of each layer; of equal scores the first win."""
    masks: Masks = {}
    for layer, score in scores.items():
        order = score.flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        masks[layer] = mask.index_fill_(0, order[: counts[layer]], True).view(score.shape)
    return masks


def kept(masks: Masks) -> dict[str, int]:
    """Return the number of active weights of each layer."""
    return {layer: int(mask.sum()) for layer, mask in masks.items()}


def densities(masks: Masks) -> dict[str, float]:
    """Return the share of active weights of each layer."""
    return {layer: int(mask.sum()) / mask.numel() for layer, mask in masks.items()}


def density(masks: Masks) -> float:
    """Return the share of active weights of all these layers together."""
    return sum(kept(masks).values()) / sum(mask.numel() for mask in masks.values())


def apply(masks: Masks, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the model's state with zeros where a mask is false."""
    masked = {entry(layer): mask for layer, mask in masks.items()}
    return {
        name: tensor.where(masked[name].to(tensor.device), 0) if name in masked else tensor
        for name, tensor in tensors.items()
    }


def pack(masks: Masks, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the model's state with each masked weight reduced to its active values, 1-D, in index order."""
    masked = {entry(layer): mask for layer, mask in masks.items()}
    return {
        name: tensor[masked[name].to(tensor.device)] if name in masked else tensor for name, tensor in tensors.items()
    }


def unpack(masks: Masks, packed: Tensors) -> dict[str, torch.Tensor]:
    """Return the dense state from the packed one, with zeros where a mask is false.

    Raises:
        ValueError: If the number of values differs from the number of active weights of the mask.
    """
    masked = {entry(layer): mask for layer, mask in masks.items()}
    tensors = {}
    for name, tensor in packed.items():
        if name in masked:
            mask = masked[name].to(tensor.device)
            if tensor.shape != (int(mask.sum()),):
                raise ValueError(f"{name} has {tuple(tensor.shape)} numbers, its mask keeps {int(mask.sum())}")
            whole = torch.zeros(mask.shape, dtype=tensor.dtype, device=tensor.device)
            tensor = whole.masked_scatter_(mask, tensor)
        tensors[name] = tensor
    return tensors


def encode(masks: Masks) -> dict[str, torch.Tensor]:
    """Return the form in which masks are sent, by layer: a bitmap (uint8) or indices of active weights (int32).

    The smaller of the two forms is used.
    """
    encoded = {}
    for layer, mask in masks.items():
        flat = mask.flatten()
        places = flat.nonzero()[:, 0].to(torch.int32)
        bitmap = _to_bits(flat)
        encoded[layer] = places if places.nbytes < bitmap.nbytes else bitmap
    return encoded


def decode(encoded: Tensors, shapes: Mapping[str, torch.Size]) -> Masks:
    """Return the masks from their encoded form and the shapes of the layers' weights.

    Raises:
        ValueError: If a tensor is neither a bitmap nor indices for a weight of that size.
    """
    masks: Masks = {}
    for layer, code in encoded.items():
        size = shapes[layer].numel()
        if code.dtype == torch.uint8 and code.shape == (-(-size // BITS),):
            flat = _from_bits(code, size)
        elif code.dtype != torch.int32 or code.dim() != 1 or ((code < 0) | (code >= size)).any():
            raise ValueError(f"this is no mask of {layer}, which has {size} weights")
        else:
            flat = torch.zeros(size, dtype=torch.bool, device=code.device).index_fill_(0, code.long(), True)
        masks[layer] = flat.view(shapes[layer])
    return masks


def _to_bits(flat: torch.Tensor) -> torch.Tensor:
    """Pack booleans into bytes, the first as the highest bit; the last byte is padded with zeros."""
    padded = nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % BITS)).view(-1, BITS)
    return (padded << _shifts(flat.device)).sum(1, dtype=torch.uint8)


def _from_bits(code: torch.Tensor, size: int) -> torch.Tensor:
    bits = (code[:, None] >> _shifts(code.device)) & 1
    return bits.flatten()[:size].bool()


def _shifts(device: torch.device) -> torch.Tensor:
    return torch.arange(BITS - 1, -1, -1, dtype=torch.uint8, device=device)
