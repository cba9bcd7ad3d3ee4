"""A file is replaced whole or not at all."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from fedsim.core.errors import FedsimError, FileError, UserError
from fedsim.core.files import any_file, reading, write_atomically, write_new, writing
from tests.conftest import FullDisk


def test_a_pipe_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    """Opening it would wait for ever for somebody who writes; /dev/zero has no end."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        sentence = rf"^{path} cannot be read \(it is a pipe, a socket or a device, and no file\)\.$"
        with pytest.raises(UserError, match=sentence), reading(path):
            path.read_bytes()


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


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_a_new_file_appears_whole_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """Also where the file system has no hard links."""
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    path = tmp_path / "a.txt"

    def write(temporary: Path) -> None:
        assert not path.exists()  # a kill would leave no part of it
        temporary.write_text("mine")

    write_new(path, write)
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError):
        write_new(path, lambda temporary: temporary.write_text("another's"))
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
    missing = tmp_path / "nowhere" / "a.txt"
    with pytest.raises(FileError, match=rf"^{missing} cannot be written \(No such file or directory\)$"):
        write_new(missing, write)


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


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"x" * 100_000),
        lambda path: save_file({"weight": torch.zeros(25_000)}, path),  # says it in words of its own
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_is_a_sentence_that_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, full_disk: FullDisk, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    with full_disk(10_000), pytest.raises(FileError) as caught:
        write_atomically(path, write)
    assert str(caught.value) == f"{path} cannot be written ({os.strerror(errno.EFBIG)})"
    assert caught.value.exit_status == 1
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="permissions are of another kind elsewhere")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask_whoever_writes(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for number, write in enumerate(
            (lambda path: path.write_text("a"), lambda path: save_file({"weight": torch.ones(2)}, path))
        ):
            path = tmp_path / str(number)
            write_atomically(path, write)
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"\xff\xfe", lambda path: path.read_text(encoding="utf-8")),
        (b'{"a": ', lambda path: json.loads(path.read_text())),
        (b"{}", lambda path: json.loads(path.read_text())["a"]),
        (b"[" * 100_000, lambda path: json.loads(path.read_text())),
        (b"a: [", OmegaConf.load),
        (b"no header", load_file),
    ],
    ids=["encoding", "cut off", "another's", "deep", "yaml", "safetensors"],
)
def test_whatever_is_wrong_with_a_file_is_one_sentence(
    tmp_path: Path, content: bytes, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with (
        pytest.raises(UserError, match=rf"^{path} cannot be read \(.+\): put it back\.$") as caught,
        reading(path, "put it back."),
    ):
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_reached_is_named_with_the_systems_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for path, number in (
        (tmp_path / "none", errno.ENOENT),
        (tmp_path / "file" / "a", errno.ENOTDIR),
        (tmp_path, errno.EISDIR),
        (tmp_path / "loop", errno.ELOOP),
        (tmp_path / ("a" * 300), errno.ENAMETOOLONG),
    ):
        with pytest.raises(UserError) as read, reading(path):
            path.read_text()
        assert str(read.value) == f"{path} cannot be read ({os.strerror(number)})."
        if number != errno.ENOENT:
            with pytest.raises(FileError) as written, writing(path):
                path.write_text("")
            assert written.value.reason == os.strerror(number)


def test_a_mistake_of_ours_is_no_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), reading(tmp_path):
        raise AssertionError
    with pytest.raises(BrokenPipeError), any_file():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(FedsimError, match=r"none cannot be used \(No such file or directory\)$"), any_file():
        (tmp_path / "none").read_text()
