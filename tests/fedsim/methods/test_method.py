"""A method of the configuration: who gets which option, what nobody takes, and what its classes declare."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from fedsim.aggregation import Median
from fedsim.client.lr_schedule import LearningRateSchedule
from fedsim.config.composition import choices, compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.method import Method
from fedsim.methods.training import LocalTraining, ServerTraining
from strategies import FedAvg, Pruned

FEDWON = {"name": "fedwon", "server": "strategies.FedWon", "client": "clients.ClippedSGD", "weighting": "uniform"}
FAMILIES = {"flower/NAME": "flower/FedTrimmedAvg"}
"""A member of each family of strategies"""


def test_each_class_takes_the_options_that_it_names(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("lr=0.3", "batch_size=7")
    trainer: Any = Method.of({**FEDWON, "clip": 0.25}).make_trainer(settings)
    assert trainer.clip == 0.25
    schedule = LearningRateSchedule("constant", settings.rounds)
    assert trainer.training == LocalTraining(local_epochs=1, batch_size=7, lr=0.3, momentum=0.0, schedule=schedule)
    fedavg = {"name": "fedwon", "server": "strategies.FedAvg", "client": "clients.ClippedSGD", "clip": 0.25}
    strategy: Any = Method.of(fedavg).make_strategy(nn.Linear(2, 2), ServerTraining(weighting="uniform", seed=3))
    assert (strategy.weighting, strategy.seed) == ("uniform", 3)
    assert not hasattr(strategy, "clip")


@pytest.mark.parametrize("half", ["server", "client"])
def test_what_is_no_class_is_refused(half: str) -> None:
    with pytest.raises(
        UserError, match=rf"^strategy\.{half}=os\.system is not possible: it is no class; choose one\.$"
    ):
        Method.of({**FEDWON, half: "os.system"})


def test_options_can_be_replaced_as_a_budget_does() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    method = Method.of(
        {"name": "pruned", "server": "strategies.Pruned", "client": "clients.MaskedSGD", "density": None}
    )
    strategy = method.make_strategy(network, ServerTraining(), density=0.5)
    assert isinstance(strategy, Pruned)
    assert strategy.density == 0.5
    with pytest.raises(UserError, match=r"^strategy\.density=None is not possible: choose a number\.$"):
        method.make_strategy(network, ServerTraining())


def test_only_options_that_neither_class_takes_are_refused() -> None:
    Method.of({**FEDWON, "clip": 0.1})
    with pytest.raises(UserError, match=r"^strategy\.alpha=2 is not an option of fedwon"):
        Method.of({**FEDWON, "zeta": 1, "alpha": 2})
    with pytest.raises(UserError, match=r"^strategy\.clip=0\.1 is not an option of fedwon"):
        Method.of({**FEDWON, "client": "clients.LocalSGD", "clip": 0.1})


@pytest.mark.parametrize("half", ["server", "client"])
def test_a_class_that_is_not_there_is_one_sentence(half: str) -> None:
    for name in ("strategies.Nothing", None):
        with pytest.raises(UserError, match=rf"^strategy\.{half}={name} .*: choose .*class or function\.$"):
            Method.of({**FEDWON, half: name})


@pytest.mark.parametrize("strategy", choices("strategy"))
def test_no_strategy_of_the_project_has_an_unused_option(strategy: str) -> None:
    Method.of(compose([f"strategy={FAMILIES.get(strategy, strategy)}"])["strategy"])


@pytest.mark.parametrize("option", ["fraction", "seed", "model", "training", "aggregation", "client_sizes"])
def test_an_option_of_a_strategy_that_the_simulator_sets_itself_is_refused(option: str) -> None:
    strategy = {"name": "fedavg", "server": "strategies.FedAvg", "client": "clients.LocalSGD", option: 0.3}
    with pytest.raises(UserError, match=rf"^strategy\.{option}=0\.3 is not an option of fedavg"):
        Method.of(strategy)


def test_a_method_says_what_its_server_can_do() -> None:
    pruned = Method.of({"name": "pruned", "server": "strategies.Pruned", "client": "clients.MaskedSGD", "density": 0.1})
    fedavg = Method.of({"name": "fedavg", "server": "strategies.FedAvg", "client": "clients.LocalSGD"})
    assert (pruned.size_option, fedavg.size_option) == ("density", None)
    assert pruned.uses_aggregation
    assert fedavg.uses_aggregation
    own = Method.of({"name": "mine", "server": f"{__name__}.Mine", "client": "clients.LocalSGD"})
    assert (own.size_option, own.uses_aggregation) == (None, False)


class Mine:
    """Somebody's strategy, which declares nothing."""

    def __init__(self, model: object, training: object) -> None: ...


def test_the_aggregation_reaches_the_strategy() -> None:
    median = Median()
    strategy = Method.of({"name": "fedavg", "server": "strategies.FedAvg", "client": "clients.LocalSGD"}).make_strategy(
        nn.Linear(2, 2), ServerTraining(aggregation=median)
    )
    assert isinstance(strategy, FedAvg)
    assert strategy.aggregation is median
