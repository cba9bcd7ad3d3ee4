"""The global model of a method with personal parts, and that nothing is evaluated twice or left out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.arrays import to_record
from fedsim.client_host import PERSONAL, ClientAppFactory
from fedsim.engines.inline import InlineGrid
from fedsim.evaluation import Measured, complete_model, evaluate
from fedsim.models import build_model
from fedsim.settings import Settings
from strategies import FedAvg, FedBN

CPU = [torch.device("cpu")]


class CountingGrid(InlineGrid):
    """Counts the messages it answers."""

    asked = 0

    def send_and_receive(self, messages: object, *, timeout: float | None = None) -> object:  # type: ignore[override]
        for reply in super().send_and_receive(messages):  # type: ignore[arg-type]
            self.asked += 1
            yield reply


@pytest.fixture
def grid(small_settings: Callable[..., Settings], federation: Federation) -> CountingGrid:
    return CountingGrid(ClientAppFactory(small_settings(), federation), 6, CPU)


def pass_on(replies: object, expected: int) -> object:
    return replies


def test_the_personal_part_of_the_global_model_is_the_unweighted_mean() -> None:
    initial = {"w": torch.zeros(2), "bn.mean": torch.tensor([9.0]), "bn.count": torch.tensor(0)}
    states = {
        0: RecordDict({PERSONAL: to_record({"bn.mean": torch.tensor([1.0]), "bn.count": torch.tensor(4)})}),
        1: RecordDict({PERSONAL: to_record({"bn.mean": torch.tensor([2.0]), "bn.count": torch.tensor(8)})}),
        2: RecordDict(),  # has not trained yet, so it still has the initial values
    }
    shared = to_record({"w": torch.tensor([1.0, 2.0])})
    model = complete_model(initial, shared, frozenset({"bn.mean", "bn.count"}), states)
    assert list(model) == ["w", "bn.mean", "bn.count"]
    assert model["w"].tolist() == [1.0, 2.0]
    assert model["bn.mean"].item() == pytest.approx((1 + 2 + 9) / 3)
    assert model["bn.count"].item() == 8


def test_without_a_personal_part_each_domain_is_evaluated_once(
    grid: CountingGrid, federation: Federation, small_settings: Callable[..., Settings]
) -> None:
    settings = small_settings()
    model = build_model(settings.model, settings.norm, 10, 0)
    tensors = dict(model.state_dict())
    result = evaluate(grid, FedAvg(model), federation, tensors, to_record(tensors), 0, pass_on)  # type: ignore[arg-type]
    assert grid.asked == 6
    assert list(result.clients) == list(range(6))
    assert list(result.domains) == list(federation.source.domain_names)
    model.eval()
    for client, partition in enumerate(federation.partitions):
        images, labels = federation.examples_of(client, Part.TEST).batch(torch.arange(20))
        correct = int((model(images).argmax(1) == labels).sum())
        assert result.clients[client] == result.domains[partition.domain]
        assert result.clients[client].correct == correct


def test_with_a_personal_part_clients_and_domains_are_evaluated(
    grid: CountingGrid, federation: Federation, small_settings: Callable[..., Settings]
) -> None:
    settings = small_settings()
    model = build_model(settings.model, settings.norm, 10, 0)
    strategy = FedBN(model)
    arrays = to_record(dict(model.state_dict()))
    list(grid.send_and_receive(strategy.configure_train(1, arrays, ConfigRecord(), grid)))
    grid.asked = 0
    complete = complete_model(dict(model.state_dict()), ArrayRecord(), strategy.personal, grid.client_states())
    result = evaluate(grid, strategy, federation, complete, arrays, 1, pass_on)  # type: ignore[arg-type]
    assert grid.asked == 12
    assert [result.clients[c].loss for c in range(6)] != [tested.loss for tested in result.domains.values()]


def test_a_tested_model_knows_its_accuracy() -> None:
    assert Measured(num_examples=8, correct=6, loss=0.5).accuracy == np.float64(0.75)
