"""Objects from configuration groups: who gets which option, and what nobody takes."""

from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from fedsim.binding import bind_half, instantiate, unused_options
from fedsim.config import compose
from fedsim.errors import UserError

FEDWON = {"name": "fedwon", "server": "strategies.FedWon", "client": "clients.ClippedSGD", "weighting": "uniform"}


@dataclass
class Pair:
    """What ``_target_`` names below."""

    left: Any
    right: Any = "nothing"


@pytest.fixture(autouse=True)
def _pair_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.binding.Pair", Pair, raising=False)  # a test module has no dotted name of its own


def test_options_arguments_and_keywords_reach_the_target() -> None:
    group = {"name": "pair", "_target_": "fedsim.binding.Pair", "right": [1, 2]}
    assert instantiate(group, "first") == Pair("first", [1, 2])
    assert instantiate({"_target_": "fedsim.binding.Pair"}, left=3) == Pair(3)


@pytest.mark.parametrize("name", ["pair", None])
def test_an_unknown_option_is_named_with_its_value(name: str | None) -> None:
    group = {"_target_": "fedsim.binding.Pair", "middle": 5} | ({"name": name} if name else {})
    with pytest.raises(
        UserError, match=rf"^middle=5 is not an option of {name or 'fedsim.binding.Pair'}: leave it out"
    ):
        instantiate(group, 1)


def test_each_half_takes_the_options_that_it_names() -> None:
    client = bind_half({**FEDWON, "clip": 0.25}, "client", "training")
    assert (client.training, client.clip) == ("training", 0.25)
    server = bind_half(
        {"name": "fedavg", "server": "strategies.FedAvg", "clip": 0.25, "weighting": "uniform"}, "server"
    )
    assert server.weighting == "uniform"
    assert not hasattr(server, "clip")


def test_only_options_that_neither_half_takes_are_unused() -> None:
    assert unused_options({**FEDWON, "clip": 0.1}) == []
    assert unused_options({**FEDWON, "zeta": 1, "alpha": 2}) == ["alpha", "zeta"]
    assert unused_options({**FEDWON, "client": "clients.LocalSGD", "clip": 0.1}) == ["clip"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "fedwon", "local"])
def test_no_strategy_of_the_project_has_an_unused_option(strategy: str) -> None:
    assert unused_options(compose([f"strategy={strategy}"])["strategy"]) == []


@pytest.mark.xfail(strict=True, raises=TypeError, reason="got multiple values for keyword argument")
def test_an_option_that_the_simulator_sets_itself_is_refused() -> None:
    """``+model.num_classes=3``: the sentence should say that it is not an option of the group."""
    with pytest.raises(UserError):
        instantiate({"name": "cnn_small", "_target_": "fedsim.models.CNNSmall", "num_classes": 3}, num_classes=10)


@pytest.mark.xfail(strict=True, raises=TypeError, reason="got multiple values for keyword argument")
@pytest.mark.parametrize("option", ["fraction", "seed", "model", "training"])
def test_an_option_of_a_strategy_that_the_simulator_sets_itself_is_refused(option: str) -> None:
    """``+strategy.fraction=0.3`` passes ``unused_options``, since the constructor names it."""
    strategy = {"name": "fedavg", "server": "strategies.FedAvg", "client": "clients.LocalSGD", option: 0.3}
    refused = unused_options(strategy) == [option]
    try:
        bind_half(strategy, "server", nn.Identity(), fraction=1.0, seed=0)
        bind_half(strategy, "client", "training")
    except UserError:
        refused = True
    assert refused
