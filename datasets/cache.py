"""The cache of decoded images: memory-mapped arrays in a user cache directory, with checksums, safe for many processes.

An entry is a folder of ``.npy`` files whose name has a fingerprint of the files and options it was made from, so that
changed ones result in a new entry. The first process that needs an entry makes it under a lock, in a temporary folder
that is renamed in one step; the others wait and map the same files. Checksums detect a damaged entry, which is made
again.

The folder may be shared: all users who can read an entry can use it. Each user has locks of its own, since in a folder
like ``/tmp`` nobody may open those of others. If two users make the same entry at once, one of the two stays.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from platformdirs import user_cache_path

from fedsim.config.paths import expanded
from fedsim.core.errors import UserError
from fedsim.core.files import DAMAGED, why

log = logging.getLogger(__name__)

VARIABLE = "FEDSIM_CACHE"
"""The environment variable that sets another folder."""
FORMAT = 2
"""Version of the format, increased when the meaning of the arrays changes."""
CHECKSUMS = "checksums.json"
CHUNK = 1 << 24
NEW_FILE = 0o666
"""The permissions of a lock file before the umask is applied."""
_checked: set[Path] = set()
"""Entries whose checksums this process has computed: later jobs of a sweep need not compute them again."""


def cache_dir() -> Path:
    return Path(expanded(VARIABLE, os.environ.get(VARIABLE) or user_cache_path("fedsim")))


def fingerprint(options: object, files: Iterable[Path]) -> str:
    """Return a digest of the options' text, and of the path, size and modification time of every file.

    Raises:
        UserError: If a file does not exist or cannot be examined; names it.
    """
    digest = hashlib.blake2b(f"{FORMAT} {options!r}".encode(), digest_size=16)
    for file in sorted(files):
        try:
            status, name = file.stat(), file.resolve()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror or error}).") from error
        # Names of files are bytes, which need not be text in any encoding.
        digest.update(b"\n%b %d %d" % (os.fsencode(name), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def cached(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the folder that ``make`` has filled with ``.npy`` files, now or earlier.

    If ``make`` raises, no entry is made and the exception passes, an ``OSError`` as a ``UserError``.

    Raises:
        UserError: If the cache cannot be written.
    """
    root = cache_dir()
    entry = root / f"{name}-{digest}"
    mine = f".{entry.name}-{os.geteuid() if hasattr(os, 'geteuid') else ''}"
    try:
        if entry.exists() and _fault(entry) is None:
            return entry
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / f"{mine}.lock"), mode=NEW_FILE):
            if os.path.lexists(entry):
                fault = _fault(entry)
                if fault is None:
                    return entry
                log.warning("the cached images in %s are damaged (%s) and made anew", entry, fault)
                _remove(entry)
            temporary = root / f"{mine}.new"
            shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed: this one has the lock
            temporary.mkdir()
            try:
                make(temporary)
                sums = {file.name: _checksum(file) for file in sorted(temporary.glob("*.npy"))}
                (temporary / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")
                _put_in_place(temporary, entry)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"the cache {root} cannot be written ({why(error)}): "
            f"set {VARIABLE} to a folder with space that you may write to."
        ) from error
    return entry


def mapped(entry: Path, name: str) -> npt.NDArray[np.uint8]:
    """Return an array of an entry as a memory map, which is read from the disk as it is used."""
    array: npt.NDArray[np.uint8] = np.load(entry / f"{name}.npy", mmap_mode="r")
    return array


def _put_in_place(temporary: Path, entry: Path) -> None:
    try:
        temporary.rename(entry)
    except OSError:
        if not entry.exists() or _fault(entry) is not None:  # if it is intact, another user has been faster
            raise


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _fault(entry: Path) -> str | None:
    """Return the fault of an entry as a text; ``None`` if it is intact."""
    try:
        sums = json.loads((entry / CHECKSUMS).read_text(encoding="utf-8"))
        if not sums:
            return "it has no checksums"
        if entry not in _checked and any(_checksum(entry / name) != expected for name, expected in sums.items()):
            return "its checksums are wrong"
    except DAMAGED as error:
        return why(error)
    _checked.add(entry)
    return None


def _checksum(file: Path) -> int:
    total = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total
