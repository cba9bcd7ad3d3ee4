"""Pickles of objects whose large buffers stay outside, so that they can be put where several processes read them."""

import io
import mmap
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], *, files_by_name: bool) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self._files_by_name = files_by_name

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.memmap:
            return NotImplemented
        if self._files_by_name and isinstance(obj.base, mmap.mmap) and obj.filename is not None:
            return np.memmap, (obj.filename, obj.dtype, "r", obj.offset, obj.shape, "F" if obj.flags.fnc else "C")
        return np.asarray(obj).__reduce_ex__(5)


def dump(value: object, *, files_by_name: bool) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of an object, and the buffers of its arrays, which the pickle does not hold.

    With ``files_by_name`` a memory map is the name of its file, which the other process maps, too, so that nothing is
    copied. A process of another machine may not have this file, and needs the array.
    """
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(file, buffers, files_by_name=files_by_name).dump(value)
    return file.getvalue(), [buffer.raw() for buffer in buffers]


def load(pickled: bytes, buffers: Sequence[Any], *, copy: bool = False) -> Any:
    """Return the object; its arrays are views of the buffers, or with ``copy`` have memory of their own."""
    return pickle.loads(pickled, buffers=[bytearray(buffer) for buffer in buffers] if copy else buffers)
