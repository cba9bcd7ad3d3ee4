"""Files of sparse networks: a compact safetensors format, and sparse tensors of torch."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedsim.core.errors import UserError
from fedsim.core.files import reading, write_atomically
from fedsim.methods.sparse.masks import Masks, Tensors, decode, encode, entry, pack, unpack

MASK = "/mask"
"""Suffix of the name of a weight, for its encoded mask. No name in a model's state has a slash."""
SHAPES = "shapes"


def save_pruned(path: Path, tensors: Tensors, masks: Masks) -> None:
    """Write a model's state to one safetensors file: for masked weights the active values and the encoded mask.

    Inactive weights are assumed to be zero. The size of the file is ``fedsim.cost.partial_bytes`` for each masked
    weight, plus the bytes of all other tensors, plus about a hundred bytes for the name of each tensor.
    """
    codes = {f"{entry(layer)}{MASK}": code for layer, code in encode(masks).items()}
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in {**pack(masks, tensors), **codes}.items()}
    shapes = json.dumps({layer: list(mask.shape) for layer, mask in masks.items()})
    write_atomically(path, lambda temporary: save_file(on_cpu, temporary, {SHAPES: shapes}))


def load_pruned(path: Path) -> dict[str, torch.Tensor]:
    """Return the model's state from a file of ``save_pruned``, dense and bitwise equal.

    Raises:
        UserError: If the file is not one of ``save_pruned``.
    """
    return unpack(*_read(path))


def load_masks(path: Path) -> Masks:
    """Return the masks from a file of ``save_pruned``.

    Raises:
        UserError: If the file is not one of ``save_pruned``.
    """
    return _read(path)[0]


def as_torch_sparse(tensors: Tensors, masks: Masks) -> dict[str, torch.Tensor]:
    """Return the model's state with each masked weight (out, ...) as a sparse CSR matrix (out, rest).

    It can be saved by ``torch.save``. The layer's operation is this matrix times inputs (rest, N), which are unfolded
    for a convolution (``torch.nn.functional.unfold``). Active weights are stored even if they are zero.
    """
    masked = {entry(layer): mask for layer, mask in masks.items()}
    return {name: _csr(tensor, masked[name]) if name in masked else tensor for name, tensor in tensors.items()}


def as_dense(sparse: Tensors, like: Tensors) -> dict[str, torch.Tensor]:
    """Return the dense state from that of ``as_torch_sparse``, each tensor in the shape that it has in ``like``."""
    return {
        name: _scattered(tensor).view(like[name].shape) if tensor.layout == torch.sparse_csr else tensor
        for name, tensor in sparse.items()
    }


def _csr(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = mask.to(weight.device).flatten(1)
    ends = rows.sum(1).cumsum(0)
    return torch.sparse_csr_tensor(
        torch.cat([ends.new_zeros(1), ends]).to(torch.int32),
        rows.nonzero()[:, 1].to(torch.int32),
        weight.detach().flatten(1)[rows],
        rows.shape,
        check_invariants=True,  # torch warns where this is left open
    )


def _scattered(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix as a dense tensor; unlike ``to_dense``, keep the sign of negative zeros."""
    lengths = matrix.crow_indices().diff()
    rows = torch.arange(len(lengths), device=matrix.device).repeat_interleave(lengths)
    dense = matrix.values().new_zeros(matrix.shape)
    dense[rows, matrix.col_indices().long()] = matrix.values()
    return dense


def _read(path: Path) -> tuple[Masks, dict[str, torch.Tensor]]:
    with reading(path, "choose a file that save_pruned wrote"), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if SHAPES not in metadata:
            raise UserError(f"{path} holds no pruned model: choose a file that save_pruned wrote.")
        shapes = {layer: torch.Size(shape) for layer, shape in json.loads(metadata[SHAPES]).items()}
        codes = {layer: file.get_tensor(f"{entry(layer)}{MASK}") for layer in shapes}
        packed = {name: file.get_tensor(name) for name in file.keys() if not name.endswith(MASK)}  # noqa: SIM118
        return decode(codes, shapes), packed
