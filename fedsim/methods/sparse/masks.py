"""Masks: which weights of a network are kept, and how what is kept travels."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.models.classifier import known_ends

Tensors = Mapping[str, torch.Tensor]
Masks = dict[str, torch.Tensor]
"""By the name of the layer: true where a weight is kept, in the shape of the weight."""
BITS = 8


def entry(layer: str) -> str:
    """The name that a layer's weight has in the model's state."""
    return f"{layer}.weight"


def prunable_layers(model: nn.Module, dense: Collection[str] = ("first",)) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name, in the order of the model.

    Biases and norm layers are never pruned; with ``first`` or ``last`` in ``dense`` the one that computes first or last
    is not either, and neither is any layer that is named there.

    Errors: ``UserError`` for a name that is no such layer, or if none is left.
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
    if known is not None:  # what computes first or last need not have been written first or last
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


def keep_largest(scores: Tensors, counts: Mapping[str, int]) -> Masks:
    """Of each layer the weights with the ``counts`` largest scores; of equal ones the first."""
    masks: Masks = {}
    for layer, score in scores.items():
        order = score.flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        masks[layer] = mask.index_fill_(0, order[: counts[layer]], True).view(score.shape)
    return masks


def kept(masks: Masks) -> dict[str, int]:
    """How many weights each layer keeps."""
    return {layer: int(mask.sum()) for layer, mask in masks.items()}


def densities(masks: Masks) -> dict[str, float]:
    """The share of weights each layer keeps."""
    return {layer: int(mask.sum()) / mask.numel() for layer, mask in masks.items()}


def density(masks: Masks) -> float:
    """The share of the weights of all these layers that is kept."""
    return sum(kept(masks).values()) / sum(mask.numel() for mask in masks.values())


def apply(masks: Masks, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The model's state with zeros where a mask is false."""
    masked = {entry(layer): mask for layer, mask in masks.items()}
    return {
        name: tensor.where(masked[name].to(tensor.device), 0) if name in masked else tensor
        for name, tensor in tensors.items()
    }


def pack(masks: Masks, tensors: Tensors) -> dict[str, torch.Tensor]:
    """What travels of a model's state: of a masked weight the kept numbers alone, (kept,), in their order."""
    masked = {entry(layer): mask for layer, mask in masks.items()}
    return {
        name: tensor[masked[name].to(tensor.device)] if name in masked else tensor for name, tensor in tensors.items()
    }


def unpack(masks: Masks, packed: Tensors) -> dict[str, torch.Tensor]:
    """The model's state again, zeros where a mask is false.

    Errors: ``ValueError`` if the numbers are not as many as the mask keeps.
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
    """How masks travel: of each layer one bit for each weight (uint8) or the place of each kept one (int32), whichever
    is less."""
    encoded = {}
    for layer, mask in masks.items():
        flat = mask.flatten()
        places = flat.nonzero()[:, 0].to(torch.int32)
        bitmap = _to_bits(flat)
        encoded[layer] = places if places.nbytes < bitmap.nbytes else bitmap
    return encoded


def decode(encoded: Tensors, shapes: Mapping[str, torch.Size]) -> Masks:
    """The masks again, given the shapes of the layers' weights.

    Errors: ``ValueError`` for what is neither bits nor places of so many weights.
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
    """Eight to a byte, the first the highest bit; the last byte is filled up with zeros."""
    padded = nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % BITS)).view(-1, BITS)
    return (padded << _shifts(flat.device)).sum(1, dtype=torch.uint8)


def _from_bits(code: torch.Tensor, size: int) -> torch.Tensor:
    bits = (code[:, None] >> _shifts(code.device)) & 1
    return bits.flatten()[:size].bool()


def _shifts(device: torch.device) -> torch.Tensor:
    return torch.arange(BITS - 1, -1, -1, dtype=torch.uint8, device=device)
