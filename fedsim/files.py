"""Files that are either the old or the new ones, never half of one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write`` with a path beside ``path``, makes sure it is on the disk, and puts it in place in one step.

    After a power cut, too, the new file is there once this returns.
    """
    temporary = path.with_name(f".{path.name}.new")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Which file has a name is kept in its folder, and that may be on its way to the disk when the file is there."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that have no such thing
            raise
    finally:
        os.close(descriptor)
