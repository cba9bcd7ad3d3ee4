"""Workers map the decoded images of the cache instead of holding copies."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from fedsim.config.settings import Settings
from fedsim.engines.process import ProcessGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import EVALUATE, METRICS, message
from fedsim.server.preparation import prepare
from fedsim.server.simulation import start_engine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_every_worker_maps_the_file_of_the_cache(tmp_path: Path, small_settings: Callable[..., Settings]) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(60, 16, 16), dtype=np.uint8), np.arange(60) % 10
    arrays = {"train_images": images[:40], "train_labels": labels[:40]}
    np.savez(tmp_path / "mnist.npz", **arrays, test_images=images[40:], test_labels=labels[40:])
    chosen = ("dataset=digits5", "dataset.domains=[mnist]", "dataset.image_size=16", f"data_dir={tmp_path}")
    # The options of the embedded set that the small federation changes are not those of this one.
    settings = small_settings(*chosen, "split=iid", "split.num_clients=4", "engine.workers=2", small=False)
    prepared = prepare(settings)
    mapped = prepared.federation.source.images
    assert isinstance(mapped, np.memmap)
    with start_engine(prepared) as grid:
        assert isinstance(grid, ProcessGrid)
        model = to_record(dict(prepared.model.state_dict()))
        replies = list(grid.send_and_receive([message(EVALUATE, client, model) for client in range(4)]))
        assert [reply.content[METRICS]["num-examples"] for reply in replies] == [20] * 4  # type: ignore[index]
        maps = [Path(f"/proc/{process}/maps").read_text() for process in grid.worker_process_ids()]
    assert len(maps) == 2
    assert all(str(mapped.filename) in each for each in maps)
    assert isinstance(replies[0].content, RecordDict)
