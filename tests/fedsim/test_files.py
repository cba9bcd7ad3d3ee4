"""A file is replaced whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from fedsim.errors import FileError
from fedsim.files import write_atomically


def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
        assert path.read_text() == text
        assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent  # another file system could not be renamed from
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise OSError("disk full")

    with pytest.raises(FileError, match=rf"^{path} cannot be written \(disk full\)$"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # a full disk needs every byte


def test_what_an_earlier_failure_left_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    (tmp_path / ".a.txt.new").write_text("half of a much longer text")
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder cannot be opened")
def test_the_new_name_is_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    synced: list[tuple[bool, str]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.path.samestat(os.fstat(descriptor), tmp_path.stat()), path.read_text()))

    monkeypatch.setattr(os, "fsync", spy)
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert synced == [(False, "old"), (True, "new")]  # first the file, then the folder with its new name


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder cannot be opened")
def test_only_a_file_system_without_such_a_thing_is_excused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, failing = tmp_path / "a.txt", [errno.EINVAL, errno.EIO]
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(failing.pop(0), "of the folder")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    with pytest.raises(FileError, match="of the folder"):
        write_atomically(path, lambda temporary: temporary.write_text("newer"))
