"""What every server strategy takes over from its base: settings of training, the aggregation's state, who answered."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from omegaconf import OmegaConf

from fedsim.aggregation import Mean
from fedsim.config.composition import CONFIG_DIR
from fedsim.core.seeding import draw_cohort
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import ROUND, config_of
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.interfaces import ServerStrategy
from fedsim.methods.method import Method
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import FedAvg, FlowerStrategy
from tests.conftest import small_settings
from tests.methods import METHODS, OPTIONS
from tests.strategies.test_every_strategy import Watched


class Counting(Mean):
    """A mean with a number that a run that goes on has to know."""

    def __init__(self, rounds: int = 0) -> None:
        super().__init__()
        self.rounds = rounds

    def state(self) -> RecordDict:
        return RecordDict({"rounds": ConfigRecord({"rounds": self.rounds})})

    def load_state(self, state: RecordDict) -> None:
        self.rounds = int(str(state.config_records["rounds"]["rounds"]))


def prepared_for(method: str, *words: str) -> Prepared:
    return prepare(small_settings("engine=inline", "rounds=1", f"strategy={method}", *OPTIONS.get(method, ()), *words))


def strategy_of(prepared: Prepared, training: ServerTraining) -> ServerStrategy:
    return Method.of(prepared.settings.strategy).make_strategy(prepared.model, training)


@pytest.mark.parametrize("method", METHODS)
def test_it_has_the_settings_of_training_and_the_state_of_the_aggregation(method: str) -> None:
    prepared = prepared_for(method)

    def strategy(rounds: int) -> tuple[ServerStrategy, Counting]:
        aggregation = Counting(rounds)
        training = ServerTraining("uniform", 0.25, 11, 12, aggregation, prepared.federation.source.image_shape)
        return strategy_of(prepared, training), aggregation

    one, counting = strategy(3)
    assert isinstance(one, FedAvg)
    assert (one.seed, one.cohort_seed, one.fraction) == (11, 12, 0.25)
    if method != "local":  # which averages nothing
        assert one.weighting == "uniform"
        if one.uses_aggregation:
            assert one.aggregation is counting
            other, fresh = strategy(0)
            other.load_state(one.state())
            assert fresh.rounds == 3


def server_of(method: str) -> type[FedAvg]:
    """The class that the file names, without composing a configuration, which takes long where tests are collected."""
    file = CONFIG_DIR / "strategy" / f"{method}.yaml"
    if not file.exists():
        return FlowerStrategy
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    server: type[FedAvg] = resolve_name(content.get("strategy", content)["server"])
    return server


def overriding(function: str) -> list[str]:
    """The methods that do more in this function than FedAvg does, and must not forget what FedAvg does."""
    found = [each for each in METHODS if getattr(server_of(each), function) is not getattr(FedAvg, function)]
    assert found
    return found


@pytest.mark.parametrize("method", overriding("read_reply"))
def test_whoever_has_replied_has_what_was_broadcast(method: str, tmp_path: Path) -> None:
    prepared = prepared_for(method, "fraction=0.5")
    broadcast = CachedBroadcast("note")
    broadcast.change(to_record({"note": torch.ones(1)}))
    assert isinstance(prepared.strategy, FedAvg)
    prepared.strategy.broadcasts.append(broadcast)
    run(prepared, tmp_path, Reporter())
    assert len(broadcast.holders) == 3


@pytest.mark.parametrize("method", overriding("configure_train"))
@pytest.mark.parametrize("round", [1, 2])
def test_the_cohort_of_the_round_is_asked_with_the_config_that_is_given(method: str, round: int) -> None:
    prepared = prepared_for(method, "fraction=0.5", "seed=3", "rounds=3")
    grid, arrays = Watched(prepared), to_record(prepared.model.state_dict())
    messages = list(prepared.strategy.configure_train(round, arrays, ConfigRecord({"note": 1.5}), grid))
    cohort = draw_cohort(list(range(6)), 0.5, 3, round)
    assert cohort != draw_cohort(list(range(6)), 0.5, 3, 3 - round)
    assert [message.metadata.dst_node_id for message in messages] == cohort
    assert all((config_of(message)["note"], config_of(message)[ROUND]) == (1.5, round) for message in messages)
    assert {message.metadata.dst_node_id for message, _ in grid.seen} <= set(cohort)
