"""FedRoD's state split, and that its shared part is FedAvg's where the loss is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.heads import use_generic_personal
from fedsim.models import CNN6
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedRoD

WORDS = ("rounds=3", "fraction=0.5", "split=[longtail,domain]", "split.imbalance_factor=0.1", "engine=inline")


def test_the_personal_classifier_is_a_copy_that_stays_and_costs_no_draw() -> None:
    torch.manual_seed(0)
    plain = CNN6()
    after = torch.rand(1)
    torch.manual_seed(0)
    model = use_generic_personal(CNN6())
    assert torch.equal(torch.rand(1), after)
    assert FedRoD(model).personal == {"head.personal.weight", "head.personal.bias"}
    state = model.state_dict()
    for entry in ("weight", "bias"):
        for head in ("generic", "personal"):
            assert torch.equal(state[f"head.{head}.{entry}"], plain.state_dict()[f"head.{entry}"])
    assert state["head.generic.weight"].data_ptr() != state["head.personal.weight"].data_ptr()


def test_with_gamma_0_the_shared_part_is_fedavgs_bit_for_bit(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    for words in (("strategy=fedrod", "strategy.gamma=0"), ("strategy=fedrod",), ("strategy=fedavg",)):
        run(prepare(small_settings(*words, *WORDS)), tmp_path / "+".join(words), Reporter())
    neutral, rod, plain = (
        load_file(tmp_path / each / "model.safetensors")
        for each in ("strategy=fedrod+strategy.gamma=0", "strategy=fedrod", "strategy=fedavg")
    )
    assert all(torch.equal(neutral[name.replace("head.", "head.generic.")], each) for name, each in plain.items())
    assert not torch.equal(rod["head.generic.weight"], plain["head.weight"])


def test_other_heads_and_frozen_ones_are_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=fedrod needs a network that ends in its two classifiers: leave he"):
        FedRoD(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model = use_generic_personal(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model.get_parameter("1.personal.weight").requires_grad_(False)
    with pytest.raises(UserError, match=r"^strategy=fedrod trains the network and two classifiers: leave train_only o"):
        FedRoD(model)
