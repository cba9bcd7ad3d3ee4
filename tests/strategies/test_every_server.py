"""What every server strategy takes over from its base: settings of training, the aggregation's state, who answered."""

from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.aggregation import Mean
from fedsim.messages.arrays import to_record
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.interfaces import ServerStrategy
from fedsim.methods.method import Method
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies.fedavg import FedAvg
from tests.conftest import small_settings
from tests.methods import METHODS, OPTIONS


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


def overrides(method: str) -> bool:
    server = Method.of(small_settings(f"strategy={method}").strategy).server
    return getattr(server, "read_reply", None) is not FedAvg.read_reply


READERS = [method for method in METHODS if overrides(method)]
"""Those that look at more of a reply than FedAvg does, and must not forget what FedAvg looks at"""
assert READERS


@pytest.mark.parametrize("method", READERS)
def test_whoever_has_replied_has_what_was_broadcast(method: str, tmp_path: Path) -> None:
    prepared = prepared_for(method, "fraction=0.5")
    broadcast = CachedBroadcast("note")
    broadcast.change(to_record({"note": torch.ones(1)}))
    assert isinstance(prepared.strategy, FedAvg)
    prepared.strategy.broadcasts.append(broadcast)
    run(prepared, tmp_path, Reporter())
    assert len(broadcast.holders) == 3
