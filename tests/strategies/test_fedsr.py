"""FedSR's state split and refusals."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads import use_stochastic
from fedsim.models import CNN6
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedSR
from tests.conftest import small_settings


def test_the_references_stay_and_all_else_is_shared() -> None:
    assert FedSR(use_stochastic(CNN6())).personal == {
        "head.reference.mean",
        "head.reference.deviation",
        "head.reference.scale",
    }


def test_a_domain_that_nobody_trains_on_is_measured(tmp_path: Path) -> None:
    run(prepare(small_settings("strategy=fedsr", "split.leave_out=street", "engine=inline")), tmp_path, Reporter())
    unseen = pd.read_csv(tmp_path / "rounds.csv")["unseen_accuracy.street"]
    assert unseen.between(0, 1).all()


def test_other_heads_and_frozen_ones_are_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=fedsr needs a network with a random representation: leave head ou"):
        FedSR(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model = use_stochastic(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model.get_parameter("1.distribution.weight").requires_grad_(False)
    with pytest.raises(UserError, match=r"^strategy=fedsr trains the network and the whole of its head: leave train_o"):
        FedSR(model)


def test_a_draw_does_not_depend_on_who_drew_before(tmp_path: Path) -> None:
    """Half of the clients train, so that others draw before them; those of the second run have the same numbers."""
    words = ("strategy=fedsr", "engine=inline", "rounds=1")
    run(prepare(small_settings(*words)), tmp_path / "all", Reporter())
    torch.manual_seed(99)
    run(prepare(small_settings(*words)), tmp_path / "again", Reporter())
    assert (tmp_path / "all" / "clients.csv").read_bytes() == (tmp_path / "again" / "clients.csv").read_bytes()
