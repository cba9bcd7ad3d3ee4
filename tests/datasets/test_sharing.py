"""Workers map the images of the cache, and those that a source has in memory, instead of holding copies."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.readers.decode import empty_images
from datasets.source import Part
from fedsim.config.settings import Settings
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
