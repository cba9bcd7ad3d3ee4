"""The files of a run directory as a server sends them, one after the other, without trust in their names."""

import base64
import binascii
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fedsim.core.errors import FedsimError, UserError
from fedsim.output.recorder import check_run_dir


def check_receiving_dir(run_dir: Path) -> None:
    """A directory for files whose names the server chooses: there or to be made, and empty but for hidden ones.

    Errors: ``UserError`` if it is not, or cannot be written.
    """
    check_run_dir(run_dir)
    there = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
    if there:
        raise UserError(
            f"out_dir={run_dir} already holds {there[0]}, and engine=superlink fills a directory from elsewhere: "
            "choose a new or an empty one."
        )


class ReceivedFiles:
    """Writes files that were not there before, and takes them back unless all of them have come.

    Errors: ``FedsimError`` for a name that is none of a run directory, for a file that is there already, has another
    size than was said, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._made: list[Path] = []
        self._name = ""
        self._missing = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        with suppress(OSError):  # what went wrong before is what has to be said
            if self._file is not None:
                self._file.close()
            for path in reversed(self._made):
                path.rmdir() if path.is_dir() else path.unlink()

    def begin(self, name: str, size: int) -> None:
        self.end()
        path = self._path(name)
        try:
            self._make_folder(path.parent)
            self._file = path.open("xb")
        except FileExistsError as error:
            raise FedsimError(f"the server sent {name}, and {path} is there already") from error
        except OSError as error:
            raise FedsimError(f"{path} cannot be written ({error.strerror})") from error
        self._made.append(path)
        self._name, self._missing = name, size

    def write(self, data: str) -> None:
        """A piece of the file, in base64."""
        if self._file is None:
            raise FedsimError("the server sent a piece of a file before its name")
        try:
            piece = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FedsimError(f"the server sent a piece of {self._name} that is not base64") from error
        self._missing -= len(piece)
        if self._missing < 0:
            raise FedsimError(f"the server sent more of {self._name} than it said")
        try:
            self._file.write(piece)
        except OSError as error:
            raise FedsimError(f"{self._folder / self._name} cannot be written ({error.strerror})") from error

    def end(self) -> None:
        """No more of the present file."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:
            raise FedsimError(f"{self._folder / self._name} cannot be written ({error.strerror})") from error
        if self._missing:
            raise FedsimError(f"{self._missing} bytes of {self._name} are missing of what the server sent")

    def _path(self, name: str) -> Path:
        """Relative, with none of the parts that mean another folder on some system, and nothing hidden."""
        parts = name.split("/")
        if not name.isprintable() or any(not part or part.startswith(".") for part in parts) or set(name) & set("\\:"):
            raise FedsimError(f"the server sent a file called {name!r}, which is not of a run directory")
        return self._folder.joinpath(*parts)

    def _make_folder(self, folder: Path) -> None:
        """Each folder that is missing; a link would lead elsewhere."""
        if folder == self._folder:
            return
        self._make_folder(folder.parent)
        if folder.is_symlink() or not folder.is_dir():
            folder.mkdir()
            self._made.append(folder)
