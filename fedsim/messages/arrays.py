"""Tensors in Flower's records, serialized only when a transport needs bytes.

Flower's ``Array`` holds ``np.save`` bytes, which take 0.2 s to write for a model of 14 M parameters. Engines on one
machine need no bytes, so ``TensorArray`` holds the tensor and makes the bytes when ``data`` is read.
"""

from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord


class TensorArray(Array):
    """An ``Array`` that holds a tensor; ``data`` (the ``np.save`` bytes) is made on demand and cached."""

    def __init__(self, tensor: torch.Tensor) -> None:
        # Array.__init__ would serialize; its four fields are set here, the last one, data, lazily. All at once, since
        # each assignment to an Array does what a change of it needs, which a new one does not: it took half the time.
        self.tensor: torch.Tensor
        self.__dict__.update(
            tensor=tensor.detach(), dtype=_name_of(tensor.dtype), shape=tuple(tensor.shape), stype="numpy.ndarray"
        )

    def numpy(self) -> npt.NDArray[np.generic]:
        return self.tensor.cpu().numpy()

    def __getattr__(self, name: str) -> bytes:
        # Only called while the instance has no ``data`` yet.
        if name != "data":
            raise AttributeError(name)
        self.data = Array.from_numpy_ndarray(self.numpy()).data
        return self.data

    def deflate(self) -> bytes:
        # Flower's transport deserializes by the class whose name is in the bytes, which must be its own.
        return Array(dtype=self.dtype, shape=self.shape, stype=self.stype, data=self.data).deflate()

    def __reduce__(self) -> tuple[object, ...]:
        # As a numpy array, so that pickle protocol 5 can pass its buffer without a copy.
        return _tensor_array, (self.numpy(),)


@cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor_array(array: npt.NDArray[np.generic]) -> TensorArray:
    # Arrays from Ray's object store are read-only; torch needs writable memory.
    return TensorArray(torch.from_numpy(array if array.flags.writeable else array.copy()))


def to_tensor(array: Array) -> torch.Tensor:
    """Return the tensor of an ``Array``: shared with it, not copied, if it is a ``TensorArray``."""
    if isinstance(array, TensorArray):
        return array.tensor
    return torch.from_numpy(array.numpy().copy())


def to_record(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Return an ``ArrayRecord`` that shares memory with ``tensors``."""
    record = ArrayRecord()
    for name, tensor in tensors.items():  # the constructor would convert each entry to a serialized Array
        record[name] = TensorArray(tensor)
    return record


def to_tensors(record: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: to_tensor(array) for name, array in record.items()}


def select(record: ArrayRecord, names: Iterable[str]) -> ArrayRecord:
    """Return the entries ``names`` of a record, in that order, shared and not copied."""
    chosen = ArrayRecord()
    for name in names:
        chosen[name] = record[name]
    return chosen


def count_bytes(record: Mapping[str, Array]) -> int:
    """Return the bytes of the values, without the few bytes of framing that each transport adds."""
    return sum(
        array.tensor.nbytes
        if isinstance(array, TensorArray)
        else int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
        for array in record.values()
    )
