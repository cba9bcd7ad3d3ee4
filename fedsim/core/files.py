"""Atomic writing of files, and file errors as one sentence.

A file is either the old or the new one, never a part of one. Other code that reads or writes files of the simulator
does so within ``reading`` or ``writing``.
"""

import csv
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError

from fedsim.core.errors import FedsimError, FileError, UserError

DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(csv.Error, YAMLError, OmegaConfBaseException, SafetensorError),
)
"""The exceptions of readers for a file that is missing, not permitted, cut off, corrupt, or of another kind."""
_OF_THE_SYSTEM = re.compile(r"(?:.*: )?(.+?) \(os error \d+\)")
"""The form in which safetensors, which is written in Rust, passes on messages of the operating system."""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Convert an error of the operating system inside the block into one sentence that names the file.

    Raises:
        FileError: If the file cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise FileError(path, why(error)) from error


@contextmanager
def reading(
    path: Path | str, advice: str = "", errors: type[Exception] | tuple[type[Exception], ...] = DAMAGED
) -> Iterator[None]:
    """Convert an error of a reader inside the block into one sentence that names the file.

    A ``FedsimError`` is already such a sentence and passes unchanged. A ``Path`` that is neither a file nor a folder is
    not tried at all.

    Args:
        path: The file that the block reads.
        advice: What the user can do about it.
        errors: The exceptions that mean that the file is unreadable.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        if isinstance(path, Path):
            refuse_pipes(path)
        yield
    except FedsimError:
        raise
    except errors as error:
        what_to_do = advice and f": {advice.rstrip('.')}"
        raise UserError(f"{path} cannot be read ({why(error)}){what_to_do}.") from error


def refuse_pipes(path: Path) -> None:
    """Refuse what stands in the place of a file and is none: a pipe is opened for ever, and a device may have no end.

    Raises:
        ValueError: If the path is a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever reads it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError("it is a pipe, a socket or a device, and no file")


@contextmanager
def any_file(kind: type[FedsimError] = FedsimError, advice: str = "") -> Iterator[None]:
    """Convert file errors of other packages, above all Hydra, which open and make files themselves, into one sentence.

    An error that names no file, such as a broken pipe, passes unchanged.

    Args:
        kind: The exception to raise.
        advice: What the user can do about it.

    Raises:
        FedsimError: Of class ``kind``, if a file cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise kind(f"{error.filename} cannot be used ({why(error)}){advice and f': {advice}'}") from error


def why(error: BaseException) -> str:
    """Return the operating system's own message, or else that of the error, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"it has no {text}"
    of_the_system = _OF_THE_SYSTEM.match(text)
    return of_the_system[1] if of_the_system else text.rstrip(".") or type(error).__name__


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, flush that file to the disk, and rename it to ``path``.

    Once this returns, the new file survives a power cut. If it cannot be written, the temporary file is removed and
    the old file stays. The permissions are those of any new file, whatever ``write`` does: safetensors makes its files
    readable by their owner only.

    Raises:
        FileError: If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                mode = os.fstat(file.fileno()).st_mode
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if temporary.stat().st_mode != mode:
                temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_new(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that must not exist yet as ``write_atomically`` does; of several processes at once, one succeeds.

    Raises:
        FileExistsError: If it exists.
        FileError: If it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_atomically(draft, write)
        try:
            os.link(draft, path)  # unlike a renaming, it fails if the file exists
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: the claim and the content are two steps there
            path.touch(exist_ok=False)
            draft.replace(path)
        sync_folder(path.parent)
    except FileExistsError:
        raise
    except (FileError, OSError) as error:
        raise FileError(path, error.reason if isinstance(error, FileError) else why(error)) from error
    finally:
        with suppress(OSError):  # the first error is the one to report
            draft.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, unless there is one, so that it survives a power cut.

    Raises:
        FileError: If it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Flush a file that has grown to the disk.

    Raises:
        FileError: If that fails.
    """
    with writing(path), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: the renaming of a file is stored in its folder, not in the file."""
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
