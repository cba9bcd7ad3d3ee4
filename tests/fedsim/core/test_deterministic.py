"""The algorithms of ``deterministic=true``: torch's switches, on a GPU, for as long as a client computes."""

import os
from pathlib import Path

import pytest
import torch

from fedsim.client.host import ClientHost
from fedsim.core import deterministic
from fedsim.core.deterministic import WORKSPACE, fixed_algorithms
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings


def switches() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


def test_they_are_switched_on_for_a_gpu_inside_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with fixed_algorithms(torch.device("cpu")):
        assert switches() == (False, True)
        assert WORKSPACE not in os.environ
    with fixed_algorithms(torch.device("cuda", 0)):
        assert switches() == (True, False)
        assert os.environ[WORKSPACE] == ":4096:8"
    assert switches() == (False, True)
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with fixed_algorithms(torch.device("cuda")):
        assert os.environ[WORKSPACE] == ":16:8"


@pytest.mark.parametrize("engine", ["inline", "vectorized"])
def test_all_of_a_client_is_computed_with_them_if_they_are_asked_for(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for the GPU's algorithms that is on where they would be."""
    seen: dict[bool, set[tuple[str, bool]]] = {True: set(), False: set()}

    def noting(name: str) -> None:
        real = getattr(ClientHost, name)

        def noted(self: ClientHost, *args: object) -> object:
            seen[self.deterministic].add((name, switches()[0]))
            return real(self, *args)

        monkeypatch.setattr(ClientHost, name, noted)

    monkeypatch.setattr(deterministic, "GPU", "cpu")
    for name in ("open", "in_training", "close", "evaluate_global"):
        noting(name)
    for asked in (True, False):
        prepared = prepare(small_settings(f"deterministic={asked}", f"engine={engine}"))
        run(prepared, tmp_path / str(asked), Reporter())
    names = ("open", "in_training", "close", "evaluate_global")
    assert seen == {asked: {(name, asked) for name in names} for asked in (True, False)}
    models = [(tmp_path / str(asked) / "model.safetensors").read_bytes() for asked in (True, False)]
    assert models[0] == models[1]
