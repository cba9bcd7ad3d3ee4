"""``compression=`` in whole runs: fewer bytes, nearly the same model, with every strategy and both engines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedsim import simulate
from tests.conftest import SMALL
from tests.methods import some_by_day

STRATEGIES = ("fedavg", "fedbn", "fedloge", "fedper", "fedrep", "fedwon", "pruned", "fedtiny", "prunefl", "feddst")
OPTIONS = {
    "feddst": ("strategy.interval=2",),
    "fedloge": ("head.steps=20",),
    "fedtiny": ("strategy.candidates=2", "strategy.interval=1"),
    "prunefl": ("strategy.interval=1",),
}


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", some_by_day(STRATEGIES))
def test_fewer_bytes_come_up_and_the_model_hardly_differs(tmp_path: Path, strategy: str) -> None:
    words = (*SMALL, "engine=inline", f"strategy={strategy}", *OPTIONS.get(strategy, ()))
    runs = {
        form: simulate(*words, f"compression={form}", f"out_dir={tmp_path / form}") for form in ("null", "fp16", "int8")
    }
    up = {form: run.summary["bytes_up"] for form, run in runs.items()}
    assert up["int8"] < up["fp16"] < up["null"]
    if strategy in ("fedwon", "fedper"):  # no BatchNorm whose statistics travel as they are, or little beside it
        assert up["fp16"] / up["null"] == pytest.approx(0.5, abs=0.02)
        assert up["int8"] / up["null"] == pytest.approx(0.25, abs=0.02)
    assert len({run.summary["bytes_down"] for run in runs.values()}) == 1
    models = {form: load_file(tmp_path / form / "model.safetensors") for form in runs}
    for form, bound in (("fp16", 0.003), ("int8", 0.03)):
        if strategy not in ("feddst", "fedtiny", "prunefl"):  # which weights change places may hang on a rounding
            plain, compressed = (torch.cat([t.double().flatten() for t in models[f].values()]) for f in ("null", form))
            assert (compressed - plain).norm() / plain.norm() < bound, form


def test_the_error_that_is_still_to_be_sent_goes_with_the_client(tmp_path: Path) -> None:
    """Worker processes and a resumed run give the bytes of one that was never stopped."""
    words = (*SMALL, "strategy=fedbn", "compression=int8")
    inline = simulate(*words, "rounds=3", "engine=inline", f"out_dir={tmp_path / 'inline'}")
    pooled = simulate(*words, "rounds=3", "engine.workers=2", f"out_dir={tmp_path / 'pooled'}")
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "inline" / file).read_bytes() == (tmp_path / "pooled" / file).read_bytes()
    assert np.isfinite(inline.summary["final"]["global_loss"])
    assert pooled.summary["bytes_up"] == inline.summary["bytes_up"]


def test_what_travels_is_a_tensor_of_bytes(tmp_path: Path) -> None:
    simulate(*SMALL, "strategy=fedbn", "compression=int8", "engine=inline", f"out_dir={tmp_path / 'run'}")
    from fedsim.messages.compression import RESIDUAL
    from fedsim.output.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    for state in checkpoint.clients.values():
        residual = state.array_records[RESIDUAL]
        assert all(torch.from_numpy(array.numpy().copy()).isfinite().all() for array in residual.values())
        assert any(array.numpy().any() for array in residual.values())
