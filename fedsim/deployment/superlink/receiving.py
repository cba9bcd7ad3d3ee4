"""The files of a run directory, which a server sends one after the other; their names are not trusted."""

import base64
import binascii
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fedsim.core.errors import FedsimError, UserError
from fedsim.output.run_directory import check_run_dir


def check_receiving_dir(run_dir: Path) -> None:
    """Check a directory for files whose names the server chooses, and make it if it does not exist.

    Raises:
        UserError: If it holds files that are not hidden, or cannot be written.
    """
    check_run_dir(run_dir)
    there = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
    if there:
        raise UserError(
            f"out_dir={run_dir} already holds {there[0]}, and engine=superlink fills a directory from elsewhere: "
            "choose a new or an empty one."
        )


class ReceivedFiles:
    """Writes files that did not exist before, and deletes them again unless all of them have arrived.

    Raises:
        FedsimError: If a name is not possible in a run directory, or a file exists already, has another size than was
            announced, or cannot be written.
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
        with suppress(OSError):  # the first error is the one to report
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
        """Append a piece, in base64, to the present file."""
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
        """Close the present file, if there is one."""
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
        """Return the path of a file with this relative name.

        Refused are hidden files and parts that mean another folder on some system, such as ``..``, ``\\`` or ``C:``.

        Raises:
            FedsimError: If the name is not possible in a run directory.
        """
        parts = name.split("/")
        if not name.isprintable() or any(not part or part.startswith(".") for part in parts) or set(name) & set("\\:"):
            raise FedsimError(f"the server sent a file called {name!r}, which is not of a run directory")
        return self._folder.joinpath(*parts)

    def _make_folder(self, folder: Path) -> None:
        """Make each missing folder on the way; a symbolic link is not followed, since it could lead elsewhere."""
        if folder == self._folder:
            return
        self._make_folder(folder.parent)
        if folder.is_symlink() or not folder.is_dir():
            folder.mkdir()
            self._made.append(folder)
