"""A loss that is not finite is named with client, round and step, and nothing is made of it."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from datasets.examples import Examples
from fedsim.client.finite_loss import Diverged, FiniteLoss
from fedsim.core.errors import RoundFailed
from fedsim.messages.arrays import to_tensors
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.interfaces import TrainingContext
from fedsim.output.checkpoint import load_checkpoint
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings


def context() -> TrainingContext:
    data = Examples(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.zeros(8, dtype=torch.long))
    return TrainingContext(data=data, generator=torch.Generator(), round=3, steps=12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_step_is_named_when_it_is_made(value: float) -> None:
    of = context()
    finite = FiniteLoss(of)
    for of.step in range(6):
        finite.see(torch.tensor(1.5))
    of.step = 6
    with pytest.raises(Diverged, match=rf"^its training loss is {value} in step 7 of 12 of round 3: a smaller lr"):
        finite.see(torch.tensor(value))


def test_elsewhere_than_on_the_cpu_it_is_named_behind_the_pass() -> None:
    """Losses of the second pass, whose first step is the fifth; on the meta device there are no numbers to look at."""
    of = context()
    finite = FiniteLoss(of)
    of.step = 4
    finite.see(torch.zeros((), device="meta"))  # does not look
    assert finite._first == 4
    finite._unseen[:] = [torch.tensor(each) for each in (0.5, 0.25, float("nan"), float("nan"))]
    with pytest.raises(Diverged, match=r"^its training loss is nan in step 7 of 12"):
        finite.settle()
    finite.settle()  # nothing is left


@pytest.mark.parametrize("engine", ["engine=inline", "engine=process"])
def test_a_run_that_diverges_names_client_round_and_step(engine: str, tmp_path: Path) -> None:
    words = ("lr=1e30", "strategy=fedbn", "update_limit=null", "batch_size=8", "engine.workers=2")
    settings = small_settings(engine, *(word for word in words if engine != "engine=inline" or "workers" not in word))
    with pytest.raises(RoundFailed) as caught:
        run(prepare(settings), tmp_path, Reporter())
    sentence = r"^client 0 failed in round 1: its training loss is (nan|inf) in step \d of 5 of round 1: a smaller lr"
    assert pd.Series([str(caught.value)]).str.match(sentence).all()
    rows = pd.read_csv(tmp_path / "clients.csv")
    (fault,) = rows["fault"].dropna()
    assert str(caught.value).startswith(f"client 0 failed in round 1: {fault}")


def test_what_a_client_keeps_stays_as_it_was_before(tmp_path: Path) -> None:
    words = ("engine=inline", "lr=1e30", "strategy=fedbn", "min_fraction_success=0.01", "update_limit=null")
    with pytest.raises(RoundFailed):
        run(prepare(small_settings(*words)), tmp_path, Reporter())
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    for state in checkpoint.clients.values():
        kept = to_tensors(state.array_records[PERSONAL]) if PERSONAL in state else {}
        assert all(tensor.isfinite().all() for tensor in kept.values())
