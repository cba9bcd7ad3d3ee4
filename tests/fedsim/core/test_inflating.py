"""Files that hold far more than their size: refused, and never inflated."""

import bz2
import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.core.inflating import TIMES, check_archive, check_inflated, inflated
from tests import harms


def checked_archive(path: Path) -> None:
    with path.open("rb") as file:
        check_archive(file)
        assert file.tell() == 0


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.gz", inflated), ("a.bz2", inflated), ("a.bz2", check_inflated), ("a.npz", checked_archive)],
)
def test_four_gigabytes_of_zeros_are_refused(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / name
    harms.bomb(file, random.Random(0))
    assert TIMES * file.stat().st_size < harms.BLOCK * harms.BLOCKS
    with pytest.raises(ValueError, match=r"^its \d+ bytes hold more than \d+ MB, as no images or weights do$"):
        read(file)


@pytest.mark.parametrize(("name", "write"), [("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a", bytes)])
def test_any_other_content_is_returned(name: str, write: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = random.Random(0).randbytes(1000) + bytes(1_000_000)  # more than TIMES its size, but not much
    (tmp_path / name).write_bytes(write(content))
    check_inflated(tmp_path / name)
    assert inflated(tmp_path / name) == content


def test_an_archive_of_black_images_is_accepted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1_000_000))
    checked_archive(tmp_path / "a.npz")
