"""Files that are either the old or the new ones, never half of one, and one sentence where that cannot be.

Whatever else writes or reads a file of ours does it within ``writing`` or ``reading``.
"""

import csv
import errno
import os
import re
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
"""What readers raise for a file that is not there, not allowed, cut off, of other bytes, or of another kind."""
_OF_THE_SYSTEM = re.compile(r"(?:.*: )?(.+?) \(os error \d+\)")
"""How safetensors, which is written in Rust, tells what the operating system has said."""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what the operating system has against a file into one sentence that names it.

    Raises: ``FileError``.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise FileError(path, why(error)) from error


@contextmanager
def reading(
    path: Path | str, advice: str = "", errors: type[Exception] | tuple[type[Exception], ...] = DAMAGED
) -> Iterator[None]:
    """Turn whatever is wrong with a file into one sentence that names it; ``advice`` says what to do about it.

    A sentence that has been made already is left as it is.

    Raises: ``UserError``.
    """
    try:
        yield
    except FedsimError:
        raise
    except errors as error:
        what_to_do = advice and f": {advice.rstrip('.')}"
        raise UserError(f"{path} cannot be read ({why(error)}){what_to_do}.") from error


@contextmanager
def any_file(kind: type[FedsimError] = FedsimError, advice: str = "") -> Iterator[None]:
    """Make a sentence of what other packages, Hydra above all, meet at files that they open or make themselves.

    What names no file, as a broken pipe, is left as it is.

    Raises: ``kind``.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise kind(f"{error.filename} cannot be used ({why(error)}){advice and f': {advice}'}") from error


def why(error: BaseException) -> str:
    """Return the operating system's own words, else those of the error, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"it has no {text}"
    of_the_system = _OF_THE_SYSTEM.match(text)
    return of_the_system[1] if of_the_system else text.rstrip(".") or type(error).__name__


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a path beside ``path``, make sure it is on the disk, and put it in place in one step.

    After a power cut, too, the new file is there once this returns. If it cannot be written, nothing is left of it and
    the old one stays. Its permissions are those of any new file, whatever ``write`` does: safetensors gives its files
    to their owner alone.

    Raises: ``FileError``.
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
            with suppress(OSError):  # what went wrong before is what has to be said
                temporary.unlink(missing_ok=True)
            raise
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
