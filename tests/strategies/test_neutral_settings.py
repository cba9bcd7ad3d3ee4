"""Methods at the settings at which they do nothing of their own: whole runs of FedAvg, or of local training."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_tensors
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

Played = Callable[..., tuple[Path, InlineGrid]]
FEDAVG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fedprox": (("strategy.mu=0",), ()),
    "moon": (("strategy.mu=0",), ()),
    "fedavgm": (("strategy.server_momentum=0",), ()),
    # All clients have as many images, and so make as many steps.
    "fednova": ((), ()),
    # In the first round all control variates are zero; weighted as there.
    "scaffold": (("rounds=1",), ("rounds=1", "strategy.weighting=uniform")),
    "apfl": (("strategy.alpha=0", "strategy.adaptive=false"), ()),
    # Nobody is better than that, so nobody prunes.
    "lotteryfl": (("strategy.accuracy=1",), ("strategy.weighting=uniform",)),
}
"""What makes the method FedAvg, and what FedAvg has to be told."""
LOCAL: dict[str, tuple[str, ...]] = {
    "ditto": ("strategy.lam=0",),
    "apfl": ("strategy.alpha=1", "strategy.adaptive=false"),
    "fedproto": ("strategy.lam=0",),
}
"""What makes a client's own model that of local training."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A run on the inline engine, of which the second with the same words is the first."""

    @cache
    def play(*words: str) -> tuple[Path, InlineGrid]:
        prepared, folder = prepare(small_settings("engine=inline", *words)), tmp_path_factory.mktemp("run")
        grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
        run(prepared, folder, Reporter(), grid)
        return folder, grid

    return play


@pytest.mark.parametrize("method", FEDAVG)
def test_it_is_fedavg_bit_for_bit(played: Played, method: str) -> None:
    words, of_fedavg = FEDAVG[method]
    one, _ = played(f"strategy={method}", *words)
    other, _ = played("strategy=fedavg", *of_fedavg)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "clients.csv").read_bytes() == (other / "clients.csv").read_bytes()


@pytest.mark.parametrize("method", LOCAL)
def test_its_own_models_are_those_of_local_training_bit_for_bit(played: Played, method: str) -> None:
    one, grid = played(f"strategy={method}", *LOCAL[method])
    other, _ = played("strategy=local")
    rows, expected_rows = (pd.read_csv(each / "clients.csv") for each in (one, other))
    pd.testing.assert_frame_equal(rows[expected_rows.columns], expected_rows, check_exact=True)
    for client, state in grid.client_states().items():
        record = next(each for name, each in state.items() if name in ("method/own model", "simulator/personal"))
        assert isinstance(record, ArrayRecord)
        trained, expected = to_tensors(record), load_file(other / f"clients/{client}.safetensors")
        assert trained.keys() == expected.keys()
        assert all(torch.equal(trained[name], tensor) for name, tensor in expected.items())


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["fedprox", "moon", "fedavgm", "scaffold", "ditto", "apfl"])
def test_elsewhere_it_is_another(played: Played, method: str) -> None:
    """So that the equalities say something."""
    one, _ = played(f"strategy={method}")
    for other, _ in (played("strategy=fedavg"), played("strategy=local")):
        assert (one / "clients.csv").read_bytes() != (other / "clients.csv").read_bytes()
