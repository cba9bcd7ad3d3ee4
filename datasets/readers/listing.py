"""Lists which files of a folder are its images, and which are left out.

Folders inside a folder are searched too, and symbolic links are followed. Hidden files and folders, and those that
operating systems leave behind, are ignored; every other file that is not read is reported.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from datasets.readers.labelled import reading
from fedsim.core.errors import UserError
from fedsim.core.names import readable

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".avifs", ".bmp", ".dib"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tif", ".tiff", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    *(".ico", ".icns", ".pcx", ".qoi", ".tga", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm", ".xpm", ".dds", ".psd"),
)
"""The endings of image files. Pillow opens others too, such as films, but reads no picture from them."""
LEFT_BEHIND = frozenset(
    {"Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN"}
    | {"System Volume Information"}
)
"""Files and folders that Windows, macOS and network disks put beside those of users; like hidden ones, no data."""


def suffixes() -> frozenset[str]:
    """Return the endings in ``PICTURES`` that this machine's Pillow opens; not every Pillow is built with AVIF."""
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix in PICTURES if formats.get(suffix) in Image.OPEN)


@dataclass
class Listing:
    """The files of one folder and of those inside it."""

    images: list[Path] = field(default_factory=list)
    """Sorted by path"""
    left_out: list[Path] = field(default_factory=list)


def list_images(folder: Path) -> Listing:
    """Return the files in a folder and in those inside it.

    Raises:
        UserError: If a folder cannot be read, or a link leads to nothing or in a circle; names it.
    """
    listing, endings = Listing(), suffixes()
    with reading(folder):
        real = folder.resolve()
        for file in _files(folder, set(real.parents)):
            ends = os.path.splitext(file)[1].lower()
            (listing.images if ends in endings else listing.left_out).append(Path(file))
    listing.images.sort()
    listing.left_out.sort()
    return listing


def subfolders(folder: Path, among: Sequence[str] | None = None) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones and those of ``LEFT_BEHIND``.

    With ``among``, only those that have the same readable form as one of these names are returned.

    Raises:
        UserError: If a folder cannot be read, or a link leads to nothing or in a circle; names it.
    """
    asked = None if among is None else {readable(name) for name in among}
    with reading(folder):
        real = folder.resolve()
        wanted = [entry for entry in _entries(folder) if asked is None or readable(entry.name) in asked]
        names = [entry.name for entry in wanted if _is_folder(entry, {real, *real.parents})]
    return sorted(names)


def loose_images(folder: Path) -> list[Path]:
    """Return the images that are directly in a folder of class folders and so are of no class, sorted."""
    endings = suffixes()
    with reading(folder):
        found = [Path(entry.path) for entry in _entries(folder) if entry.is_file()]
    return sorted(file for file in found if file.suffix.lower() in endings)


def told(left_out: Iterable[Path]) -> str:
    """Return a phrase about files that are left out: how many with which ending, and the first of them."""
    files = sorted(left_out)
    endings = Counter(file.suffix.lower() or "without an ending" for file in files).most_common()
    shown = [f"{count} {ending}" for ending, count in endings[:4]]
    if len(endings) > len(shown):
        shown.append(f"{sum(count for _, count in endings[4:])} others")
    return f"{', '.join(shown)}, as {files[0]}"


def _files(folder: Path | str, above: set[Path]) -> Iterator[str]:
    here = {*above, Path(folder).resolve()}
    for entry in _entries(folder):
        if _is_folder(entry, here):
            yield from _files(entry.path, here)
        elif entry.is_file():  # not a socket or pipe, which could block for ever
            yield entry.path


def _entries(folder: Path | str) -> list["os.DirEntry[str]"]:
    with reading(folder), os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in LEFT_BEHIND]


def _is_folder(entry: "os.DirEntry[str]", above: set[Path]) -> bool:
    """Return whether an entry is a folder.

    Raises:
        UserError: If it is a link to nothing, or to a folder that contains it.
    """
    if entry.is_symlink():
        with reading(entry.path):
            try:
                os.stat(entry.path)
            except FileNotFoundError:
                raise UserError(
                    f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there: fetch or mount what it "
                    "leads to, or remove the link."
                ) from None
        if entry.is_dir() and Path(entry.path).resolve() in above:
            raise UserError(f"{entry.path} is a link to a folder that it lies in: remove the link.")
    return entry.is_dir()
