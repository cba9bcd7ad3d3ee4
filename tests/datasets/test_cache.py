"""The cache of decoded images: made once, made anew when it must be, and safe under several processes."""

import errno
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets import cache
from datasets.cache import cached, fingerprint, mapped
from datasets.source import Part, Source
from fedsim.core.errors import UserError
from fedsim.engines.pickling import dump, load

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Writes one array and counts how often it was asked to."""

    def __init__(self, value: int = 7) -> None:
        self.value, self.made = value, 0

    def __call__(self, folder: Path) -> None:
        self.made += 1
        np.save(folder / "images.npy", np.full((1000, 3), self.value, np.uint8))


def test_an_entry_is_made_once_and_mapped(root: Path) -> None:
    maker = Maker()
    entries = {cached("set", "digest", maker) for _ in range(3)}
    assert maker.made == 1
    [entry] = entries
    array = mapped(entry, "images")
    assert isinstance(array, np.memmap)
    assert array.tolist() == [[7, 7, 7]] * 1000
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    cached("set", "other", maker)
    assert maker.made == 2


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "sums"])
def test_a_damaged_entry_is_made_anew_and_said(
    harm: str, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    entry = cached("set", "digest", maker)
    file = entry / "images.npy"
    content = file.read_bytes()
    if harm == "flip":
        file.write_bytes(content[:-5] + b"\x01" + content[-4:])
    elif harm == "cut":
        file.write_bytes(content[:500])
    elif harm == "delete":
        file.unlink()
    else:
        (entry / cache.CHECKSUMS).write_text("{")
    monkeypatch.setattr(cache, "_checked", set())  # as a new process would find it
    with caplog.at_level(logging.WARNING):
        assert cached("set", "digest", maker) == entry
    assert maker.made == 2
    assert "made anew" in caplog.text
    assert mapped(entry, "images").sum() == 7 * 3000


def test_what_fails_leaves_nothing(root: Path) -> None:
    def fail(folder: Path) -> None:
        Maker()(folder)
        raise UserError("a file is damaged")

    with pytest.raises(UserError, match="a file is damaged"):
        cached("set", "digest", fail)
    assert [path.name for path in root.iterdir()] == [f".set-digest-{os.geteuid()}.lock"]
    maker = Maker()
    cached("set", "digest", maker)
    assert maker.made == 1


def test_a_cache_that_cannot_be_written_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^the cache .*file cannot be written .*set FEDSIM_CACHE to a folder"):
        cached("set", "digest", Maker())


def test_what_a_killed_process_left_is_removed(root: Path) -> None:
    mine, others = f".set-digest-{os.geteuid()}.new", ".set-digest-12345.new"
    for left in (mine, others):
        (root / left).mkdir(parents=True)
        (root / left / "half.npy").write_bytes(b"half")
    entry = cached("set", "digest", Maker())
    assert not (root / mine).exists()
    assert not (entry / "half.npy").exists()
    assert (root / others).exists()  # may be another user's work


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_full_disk_is_an_error_before_images_are_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., Source]
) -> None:
    def full(file: int, start: int, size: int) -> None:
        assert size > 20 * 3 * 28 * 28
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    images, labels = np.zeros((10, 8, 8), np.uint8), np.arange(10)
    root.mkdir()
    np.savez(root / "mnist.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(
        UserError, match=r"^the cache .* cannot be written \(No space left on device\): set FEDSIM_CACHE"
    ):
        load("dataset=digits5", f"data_dir={root}", "dataset.domains=[mnist]")


def test_the_fingerprint_changes_with_files_and_options(tmp_path: Path) -> None:
    files = [tmp_path / "b", tmp_path / "a"]
    for file in files:
        file.write_bytes(b"12345")
        os.utime(file, (1, 1))
    first = fingerprint(("set", 32), files)
    assert fingerprint(("set", 32), reversed(files)) == first
    assert fingerprint(("set", 28), files) != first
    os.utime(files[0], (1, 2))
    second = fingerprint(("set", 32), files)
    assert second != first
    files[0].write_bytes(b"123456")
    os.utime(files[0], (1, 2))
    assert fingerprint(("set", 32), files) != second


PROGRAM = """
import sys, time
import numpy as np
from pathlib import Path
from datasets.cache import cached, mapped

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.5)
    np.save(folder / "images.npy", np.arange(1000, dtype=np.uint8))

print(int(mapped(cached("set", "digest", make), "images").sum()))
"""


def test_processes_at_once_make_one_entry(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert printed == {str(int(np.arange(1000, dtype=np.uint8).sum()))}
    assert (tmp_path / "log").read_text() == "made\n"


def source_of(images: np.ndarray) -> Source:
    count = len(images)
    zeros = np.zeros(count, np.int64)
    return Source(images, zeros, zeros, np.full(count, Part.TRAIN, np.uint8), ("one",), ("a",))


def test_a_mapped_source_is_sent_by_its_path(root: Path) -> None:
    def make(folder: Path) -> None:
        np.save(folder / "images.npy", np.arange(3_000_000, dtype=np.uint8).reshape(1000, 3, 10, 100))

    source = source_of(mapped(cached("set", "digest", make), "images"))
    assert source.indices(0, Part.TRAIN).tolist() == list(range(1000))
    sent, buffers = dump(source, files_by_name=True)
    assert len(sent) + sum(buffer.nbytes for buffer in buffers) < 50_000
    received = load(sent, buffers)
    assert isinstance(received.images, np.memmap)
    assert np.array_equal(received.images, source.images)
    assert received.indices(0, Part.TRAIN).tolist() == list(range(1000))


def test_images_in_memory_are_sent_themselves() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    assert np.array_equal(pickle.loads(pickle.dumps(source_of(images))).images, images)


def test_a_source_that_could_not_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        source_of(np.zeros((2, 4, 4, 3), np.uint8).transpose(0, 3, 1, 2))


@pytest.mark.skipif(os.name != "posix", reason="permissions are of another kind elsewhere")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_an_entry_has_the_permissions_of_any_new_folder(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        entry = cached("set", "digest", Maker())
    finally:
        os.umask(before)
    assert stat.S_IMODE(entry.stat().st_mode) == 0o777 & ~umask
    for file in entry.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_what_is_there_needs_no_lock_of_somebody_else(root: Path) -> None:
    maker = Maker()
    entry = cached("set", "digest", maker)
    for lock in root.glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # cannot be opened, as another user's in a folder like /tmp
    assert cached("set", "digest", maker) == entry
    assert maker.made == 1


def test_of_two_users_who_make_an_entry_at_once_the_first_is_kept(root: Path) -> None:
    def make(folder: Path) -> None:
        Maker(value=5)(folder)
        if not (root / "set-digest").exists():  # while the other's lock does not hold us
            shutil.copytree(entry_of_another, root / "set-digest")

    entry_of_another = cached("other", "digest", Maker(value=9))
    entry = cached("set", "digest", make)
    assert mapped(entry, "images").max() == 9
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["other-digest", "set-digest"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda entry: entry.write_text("a file"),
        lambda entry: entry.symlink_to("nowhere"),
        lambda entry: (entry.mkdir(), (entry / "checksums.json").write_text("{}")),
    ],
    ids=["a file", "a link to nothing", "a folder of nothing"],
)
def test_what_lies_in_the_place_of_an_entry_is_made_one(root: Path, harm: Callable[[Path], object]) -> None:
    root.mkdir()
    harm(root / "digits-abc")
    assert (mapped(cached("digits", "abc", Maker()), "images") == 7).all()


def test_the_variable_may_name_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache.VARIABLE, "~/cache")
    assert cache.cache_dir() == tmp_path / "cache"
