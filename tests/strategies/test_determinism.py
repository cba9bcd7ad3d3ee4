"""Every strategy gives the same bits on every engine, also when it was stopped: docs/determinism.md."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.methods import METHODS
from tests.strategies.test_every_strategy import assert_same_run, settings_of


class Stops(Reporter):
    def round_done(self, round: int, metrics: object) -> None:
        if round == 2:
            raise KeyboardInterrupt


def straight(method: str, folder: Path, *words: str) -> Path:
    run(prepare(settings_of(method, *words)), folder, Reporter())
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize("method", METHODS)
def test_neither_the_engine_nor_its_workers_nor_a_stop_matter(method: str, tmp_path: Path) -> None:
    first = straight(method, tmp_path / "first")
    assert_same_run(first, straight(method, tmp_path / "again"))
    for workers in (1, 3):
        words = ("engine=process", f"engine.workers={workers}")
        assert_same_run(first, straight(method, tmp_path / str(workers), *words))
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(prepare(settings_of(method, "engine=process", "engine.workers=2")), stopped, Stops())
    run(prepare(settings_of(method, "engine=process", "engine.workers=2", f"resume={stopped}")), stopped, Reporter())
    assert_same_run(first, stopped)


def test_neither_measuring_nor_the_threads_of_torch_change_a_model(tmp_path: Path) -> None:
    first = straight("fedbn", tmp_path / "first")
    measured = straight("fedbn", tmp_path / "measured", "evaluate_every=2", "diagnostics=true", "metrics=[ece]")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threaded = straight("fedbn", tmp_path / "threaded", "engine=process", "engine.workers=2")
    finally:
        torch.set_num_threads(threads)
    for name in ("model.safetensors", "clients/3.safetensors"):
        tensors = load_file(first / name)
        for other in (measured, threaded):
            found = load_file(other / name)
            assert tensors.keys() == found.keys()
            assert all(tensor.equal(found[key]) for key, tensor in tensors.items())


def test_noise_is_the_same_after_a_stop(tmp_path: Path) -> None:
    """It is drawn for one entry after the other, so their order has to come back from the checkpoint, too."""

    class StopsEarly(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 1:
                raise KeyboardInterrupt

    noise = ("privacy=server_fixed_clipping", "privacy.noise_multiplier=0.1", "privacy.clipping_norm=1.0")
    words = (*noise, "strategy.weighting=uniform", "norm=gn", "rounds=2", "fraction=1.0")
    first = straight("fedavg", tmp_path / "first", *words)
    with pytest.raises(KeyboardInterrupt):
        run(prepare(settings_of("fedavg", *words)), tmp_path / "stopped", StopsEarly())
    run(prepare(settings_of("fedavg", *words, f"resume={tmp_path / 'stopped'}")), tmp_path / "stopped", Reporter())
    assert_same_run(first, tmp_path / "stopped")
