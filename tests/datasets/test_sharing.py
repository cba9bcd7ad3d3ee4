"""Workers map the images of the cache, and those that a source has in memory, instead of holding copies."""

import errno
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from datasets.readers import decode
from datasets.readers.decode import empty_images
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.engines.pickling import dump, load
from fedsim.engines.process import ProcessGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import EVALUATE, METRICS, message
from fedsim.server.preparation import prepare
from fedsim.server.simulation import start_engine

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.parametrize("dataset", ["digits", "digits5"])
def test_every_worker_maps_the_images(dataset: str, tmp_path: Path, small_settings: Callable[..., Settings]) -> None:
    chosen = ["dataset=digits", "dataset.test_per_domain=20", "split.test=domain"]
    if dataset == "digits5":
        rng = np.random.default_rng(0)
        images, labels = rng.integers(256, size=(60, 16, 16), dtype=np.uint8), np.arange(60) % 10
        arrays = {"train_images": images[:40], "train_labels": labels[:40]}
        np.savez(tmp_path / "mnist.npz", **arrays, test_images=images[40:], test_labels=labels[40:])
        chosen = ["dataset=digits5", "dataset.domains=[mnist]", "dataset.image_size=16", f"data_dir={tmp_path}"]
    # The options of the embedded set that the small federation changes are not those of every one.
    settings = small_settings(*chosen, "split=iid", "split.num_clients=4", "engine.workers=2", small=False)
    prepared = prepare(settings)
    mapped = prepared.federation.source.images
    assert isinstance(mapped, np.memmap)
    assert mapped.filename is not None
    inode = os.stat(mapped.filename).st_ino
    tested = prepared.federation.num_images(0, Part.TEST)
    with start_engine(prepared) as grid:
        assert isinstance(grid, ProcessGrid)
        model = to_record(dict(prepared.model.state_dict()))
        replies = list(grid.send_and_receive([message(EVALUATE, client, model) for client in range(4)]))
        assert [reply.content[METRICS]["num-examples"] for reply in replies] == [tested] * 4  # type: ignore[index]
        maps = [Path(f"/proc/{process}/maps").read_text() for process in grid.worker_process_ids()]
    assert len(maps) == 2
    assert all(f" {inode} " in each for each in maps)


def test_the_memory_of_images_is_given_back_with_their_last_view() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = descriptors()
    images = empty_images(10, 28)
    assert images.shape == (10, 3, 28, 28)
    images[:] = 7
    view = images[2:4]
    del images
    gc.collect()
    assert view.sum() == 7 * 2 * 3 * 28 * 28
    assert descriptors() > before
    del view
    gc.collect()
    assert descriptors() == before


@pytest.mark.parametrize("missing", ["memfd_create", "truncate"])
def test_without_such_files_images_are_an_array(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that may write no large file, or where there is no /proc."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    if missing == "memfd_create":
        monkeypatch.setattr(os, "memfd_create", refused)
    else:
        monkeypatch.setattr(decode, "open_memmap", refused)
    images = empty_images(10, 28)
    assert type(images) is np.ndarray
    assert images.shape == (10, 3, 28, 28)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_map_of_raw_bytes_is_sent_by_its_name_too(order: Literal["C", "F"], tmp_path: Path) -> None:
    expected = np.arange(1200, dtype=np.uint16).reshape(10, 12, 10)
    (tmp_path / "raw").write_bytes(b"head" + expected.tobytes(order))
    mapped = np.memmap(tmp_path / "raw", np.uint16, "r", offset=4, shape=expected.shape, order=order)
    sent, buffers = dump({"whole": mapped, "part": mapped[3:5]}, files_by_name=True)
    assert sum(buffer.nbytes for buffer in buffers) <= expected[3:5].nbytes
    received = load(sent, buffers)
    assert isinstance(received["whole"], np.memmap)
    assert np.array_equal(received["whole"], expected)
    assert np.array_equal(received["part"], expected[3:5])
