"""Objects sent between processes of one machine, with their large buffers in shared memory instead of in the pipe.

The buffers of arrays are pickled separately (``pickling.py``). They are copied into one anonymous file, whose
descriptor is sent over the connection, and the receiver's arrays are views of that file. The file has no name, so
nothing is left behind when a process is killed, and its size is not limited by that of /dev/shm.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from fedsim.engines.pickling import dump, load

ALIGNMENT = 64


@dataclass
class Packed:
    """An object ready to be sent any number of times; the file exists until the last process has closed it."""

    pickled: bytes
    sizes: list[int]
    file: int | None

    def __del__(self) -> None:
        if self.file is not None:
            os.close(self.file)


def pack(value: object) -> Packed:
    pickled, views = dump(value, files_by_name=True)
    sizes = [view.nbytes for view in views]
    if not sum(sizes):
        return Packed(pickled, sizes, None)
    starts, end = _layout(sizes)
    packed = Packed(pickled, sizes, _anonymous_file(end))
    assert packed.file is not None
    with mmap.mmap(packed.file, end) as memory:
        for start, view in zip(starts, views, strict=True):
            memory[start : start + view.nbytes] = view
    return packed


def send(connection: Connection, packed: Packed, process_id: int) -> None:
    connection.send((packed.pickled, packed.sizes, packed.file is not None))
    if packed.file is not None:
        send_handle(connection, packed.file, process_id)


def receive(connection: Connection, *, copy: bool = False) -> Any:
    """Return the object; its arrays are views of the shared file, or with ``copy`` own memory without a descriptor.

    Raises:
        EOFError: If the other side has closed the connection.
        OSError: If the connection is broken.
    """
    pickled, sizes, has_file = connection.recv()
    if not has_file:
        return load(pickled, [bytearray(size) for size in sizes])
    file = recv_handle(connection)
    try:
        starts, end = _layout(sizes)
        memory = memoryview(mmap.mmap(file, end))
    finally:
        os.close(file)
    views = [memory[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return load(pickled, views, copy=copy)


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    starts = [0, *accumulate((size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT for size in sizes)]
    return starts[:-1], starts[-1]


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("fedsim")
    else:  # macOS: a file without a name on the disk's cache
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, size)
    return file
