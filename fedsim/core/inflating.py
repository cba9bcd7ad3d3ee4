"""Compressed files that would fill the memory are refused before they do.

How much a file may hold is a multiple of its own size that no images or weights reach, or a size that fits anywhere.
"""

import bz2
import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

TIMES = 50
"""How many times its own size a file may hold: MNIST's images are compressed to a fifth, its labels to a twelfth"""
ALWAYS = 1 << 27
"""Bytes that any file may hold"""
CHUNK = 1 << 20
OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}


def check_archive(file: BinaryIO) -> None:
    """Check what the members of a zip archive, which is open at any place, say that they hold.

    Who reads a member reads no more than that.

    Raises:
        ValueError: If it is too much.
        zipfile.BadZipFile: If the file is no archive.
    """
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        _check(sum(member.file_size for member in archive.infolist()), size)
    file.seek(place)


def inflated(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.gz`` or ``.bz2``.

    Raises:
        ValueError: If it is too much.
    """
    opener = OPENERS.get(path.suffix)
    if opener is None:
        return path.read_bytes()
    size = path.stat().st_size
    with opener(path) as file:
        content = file.read(_limit(size) + 1)
    _check(len(content), size)
    return content


def check_inflated(path: Path) -> None:
    """Check how much a file holds if its name ends in ``.gz`` or ``.bz2``, without keeping it.

    Raises:
        ValueError: If it is too much.
    """
    opener = OPENERS.get(path.suffix)
    if opener is None:
        return
    size, held = path.stat().st_size, 0
    with opener(path) as file:
        while piece := file.read(CHUNK):
            held += len(piece)
            _check(held, size)


def _limit(size: int) -> int:
    return max(ALWAYS, TIMES * size)


def _check(held: int, size: int) -> None:
    if held > _limit(size):
        raise ValueError(f"its {size} bytes hold more than {_limit(size) / 1e6:.0f} MB, as no images or weights do")
