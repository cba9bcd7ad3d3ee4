"""Folders for runs: new ones for runs without a name, which are removed again if the run has written nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from fedsim.core.errors import UserError

RUNS, SWEEPS = "outputs", "multirun"


@contextmanager
def run_folder(named: str | None, parent: str = RUNS) -> Iterator[Path]:
    """Yield the folder of a run or a sweep: ``named``, or else a new one, ``parent/DATE/TIME``.

    Of two that start in the same second, the later gets ``TIME-2``. Folders that are made here or inside the block are
    removed again if they are empty at its end; those that existed before stay.

    Raises:
        UserError: If a new folder cannot be made.
    """
    now = datetime.now()
    folder = Path(parent, f"{now:%Y-%m-%d}") if named is None else Path(named)
    with only_if_used(folder):
        if named is None:
            folder = _new_folder(folder, f"{now:%H-%M-%S}")
        try:
            yield folder
        finally:
            if named is None:
                remove_if_empty(folder)


@contextmanager
def only_if_used(*folders: Path) -> Iterator[None]:
    """Remove these folders and their parents after the block, as far as they did not exist before and are empty."""
    missing = {each for folder in folders for each in (folder, *folder.parents) if not each.exists()}
    try:
        yield
    finally:
        for each in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            remove_if_empty(each)


def _new_folder(parent: Path, name: str) -> Path:
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except (FileExistsError, FileNotFoundError) as error:
            if parent.exists() and not parent.is_dir():
                raise _not_writable(folder, error) from error
            continue  # another run has taken the name, or removed a folder that it left empty
        except OSError as error:
            raise _not_writable(folder, error) from error
        break
    return folder


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be used ({error.strerror}): choose another directory with out_dir=.")


def remove_if_empty(folder: Path) -> None:
    """Remove the folder if it exists and is empty."""
    with suppress(OSError):  # it does not exist or is not empty
        folder.rmdir()
