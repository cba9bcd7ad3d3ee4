"""What is tried before anything starts, and that the engine is the one that was asked for."""

import gc
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.engines.process import ProcessGrid
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run, start_engine


def test_the_same_seed_prepares_the_same_model_and_another_seed_another(
    small_settings: Callable[..., Settings],
) -> None:
    first, again, other = (prepare(small_settings(f"seed={seed}")).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_fedwon_and_fedbn_start_from_the_same_weights(small_settings: Callable[..., Settings]) -> None:
    """Replacing layers draws no random number that another method would not draw."""
    fedbn = prepare(small_settings("strategy=fedbn")).model.state_dict()
    fedwon = prepare(small_settings("strategy=fedwon")).model.state_dict()
    for name in ("features.0.weight", "features.4.weight", "features.8.weight", "head.weight"):
        assert torch.equal(fedbn[name], fedwon[name]), name


def test_preparing_leaves_the_global_generator_alone(small_settings: Callable[..., Settings]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    prepare(small_settings())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("overrides", "kind"), [(["engine=inline"], InlineGrid), (["engine.workers=1"], ProcessGrid)])
def test_the_engine_is_the_one_asked_for(
    small_settings: Callable[..., Settings], overrides: list[str], kind: type
) -> None:
    with start_engine(prepare(small_settings(*overrides))) as grid:
        assert type(grid) is kind
        assert list(grid.get_node_ids()) == list(range(6))


@pytest.mark.parametrize(
    "options",
    [
        ("strategy=fedloge", "head.steps=20", "mask_absent_classes=true"),
        ("strategy=fedtiny", "strategy.candidates=2", "strategy.interval=1"),
    ],
    ids=lambda options: options[0],
)
def test_what_travels_beside_the_model_is_the_same_in_worker_processes(
    small_settings: Callable[..., Settings], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A fixed classifier, masks, the questions before training and what is told of gradients."""
    for engine in ("inline", "process"):
        settings = small_settings(*options, "fraction=0.5", "rounds=3", f"engine={engine}")
        run(prepare(settings), tmp_path / engine, Reporter())
    tables = ["clients.csv", "classes.csv", "model.safetensors"]
    for name in tables:
        assert (tmp_path / "inline" / name).read_bytes() == (tmp_path / "process" / name).read_bytes(), name
    inline, process = (pd.read_csv(tmp_path / engine / "rounds.csv") for engine in ("inline", "process"))
    assert inline["bytes_down"].equals(process["bytes_down"])
    assert inline["bytes_up"].equals(process["bytes_up"])


def test_what_cannot_go_together_is_refused(small_settings: Callable[..., Settings]) -> None:
    with pytest.raises(UserError, match="batch_size=1"):
        prepare(small_settings("batch_size=1", "model=cnn6"))
    prepare(small_settings("batch_size=1", "strategy=fedwon"))


def test_after_a_run_the_garbage_collector_looks_at_everything_again(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    run(prepare(small_settings("engine=inline", "rounds=1", "pictures=false")), tmp_path, Reporter())
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
