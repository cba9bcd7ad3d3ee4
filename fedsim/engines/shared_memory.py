"""Objects sent between processes of one machine, with their large buffers in shared memory instead of in the pipe.

The buffers of arrays are pickled separately (``pickling.py``) and copied into an anonymous file, whose descriptor goes
through the pipe once. What many processes receive, as the model of a round, has a file of its own, of which their
arrays are views. What is for one process goes through a file that the channel keeps for its direction, pickle and all,
and the receiver copies it: a new file for each reply would cost a page fault for each of its pages on both sides, which
took longer than the copy. It stays as large as the largest message. Files have no name, so nothing is left behind when
a process is killed, and their size is not limited by that of /dev/shm.
"""

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from enum import Enum, auto
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch

from fedsim.engines.pickling import dump, load

ALIGNMENT = 64
SHORT = 4096
"""Bytes of an object without buffers up to which it needs no file; the pipe has room for several."""


class _Place(Enum):
    """Where a message is."""

    PIPE = auto()
    """In the pipe."""
    KEPT = auto()
    """In a file of the channel."""
    GROWN = auto()
    """In a file of the channel, a new one, whose descriptor follows."""
    OWN = auto()
    """In a file of the object's own, whose descriptor follows."""


class Packed:
    """An object ready to be sent any number of times; its file exists until the last process has closed it."""

    def __init__(self, value: object) -> None:
        self.head, views = _head_and_views(value)
        self.file: _File | None = None
        if any(view.nbytes for view in views) or len(self.head) > SHORT:
            self.file = _File(_size([self.head, *views]))
            with self.file.mapped() as memory:
                _write(memory, [self.head, *views])


class Channel:
    """One end of a pipe between two processes, of which the other one answers what it is sent, in its order.

    A message that is sent while others are unanswered goes through another file, for which the sender chooses a number;
    the answer has the same number. The pipe carries little of a message, for which there is room, so that neither
    process waits until the other one reads.
    """

    def __init__(self, connection: Connection, process_id: int) -> None:
        """Use a connection.

        Args:
            connection: The end of the pipe, which can pass descriptors.
            process_id: That of the process at the other end.
        """
        self.connection = connection
        self._process_id = process_id
        self._outgoing: dict[int, mmap.mmap] = {}
        self._incoming: dict[int, memoryview] = {}

    def send(self, value: object, number: int = 0) -> None:
        """Send an object, of which the receiver has a copy, through the file with this number, which is read by now."""
        head, views = _head_and_views(value)
        needed = _size([head, *views])
        place, file, memory = _Place.KEPT, None, self._outgoing.get(number)
        if memory is None or len(memory) < needed:
            place, file = _Place.GROWN, _File(needed)
            memory = file.mapped()
        _write(memory, [head, *views])
        self._announce(place, (number, len(head)), file)
        self._outgoing[number] = memory  # only now, when the other side knows of it

    def send_shared(self, packed: Packed) -> None:
        """Send an object whose arrays the receiver sees where they lie; its number is 0."""
        if packed.file is None:
            self._announce(_Place.PIPE, packed.head)
        else:
            self._announce(_Place.OWN, (0, len(packed.head)), packed.file)

    def receive(self) -> tuple[Any, int]:
        """Return what the other process has sent, and its number.

        Raises:
            EOFError: If the other side has closed the connection.
            OSError: If the connection is broken.
        """
        place, about = self.connection.recv()
        if place is _Place.PIPE:
            pickled, sizes = pickle.loads(about)
            return load(pickled, [bytearray(size) for size in sizes]), 0
        number, head = about
        if place is _Place.GROWN:
            self._incoming[number] = _received_file(self.connection)
        memory = _received_file(self.connection) if place is _Place.OWN else self._incoming[number]
        pickled, sizes = pickle.loads(memory[:head])
        views = _views(memory, [head, *sizes])[1:]
        return load(pickled, views if place is _Place.OWN else [_copied(view) for view in views]), number

    def close(self) -> None:
        self.connection.close()

    def _announce(self, place: _Place, about: object, file: "_File | None" = None) -> None:
        self.connection.send((place, about))
        if file is not None:
            send_handle(self.connection, file.descriptor, self._process_id)


class _File:
    """An anonymous file of a size, which is there as long as a process has it open or sees it in its memory."""

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("fedsim")
        else:  # macOS: a file without a name on the disk's cache
            with tempfile.TemporaryFile() as temporary:
                self.descriptor = os.dup(temporary.fileno())
        os.truncate(self.descriptor, size)

    def mapped(self) -> mmap.mmap:
        return mmap.mmap(self.descriptor, 0)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _head_and_views(value: object) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of an object together with the sizes of its buffers, and the buffers."""
    pickled, views = dump(value, files_by_name=True)
    return pickle.dumps((pickled, [view.nbytes for view in views])), views


def _size(parts: Sequence[bytes | memoryview]) -> int:
    return _layout([memoryview(part).nbytes for part in parts])[1]


def _write(memory: mmap.mmap, parts: Sequence[bytes | memoryview]) -> None:
    sizes = [memoryview(part).nbytes for part in parts]
    for start, size, part in zip(_layout(sizes)[0], sizes, parts, strict=True):
        memory[start : start + size] = part


def _received_file(connection: Connection) -> memoryview:
    descriptor = recv_handle(connection)
    try:
        return memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)


def _views(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    starts, _ = _layout(sizes)
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _copied(view: memoryview) -> memoryview:
    """Return a copy that lies as torch's own tensors do: how a sum is rounded may depend on where numbers lie."""
    copy = torch.empty(view.nbytes, dtype=torch.uint8).numpy().data
    copy[:] = view
    return copy


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return where the buffers begin, and where the last one ends."""
    starts = [0, *accumulate((size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT for size in sizes)]
    return starts[:-1], starts[-1]
