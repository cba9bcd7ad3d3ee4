"""The global model of a method with personal parts, and that nothing is evaluated twice or left out."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from datasets.build import build_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.methods.federated_model import FederatedModel
from fedsim.methods.interfaces import ServerStrategy
from fedsim.metrics.measured import Evaluation, Measured
from fedsim.metrics.round_metrics import age_metrics
from fedsim.models import build_model
from fedsim.server.evaluation import Evaluator
from strategies import FedAvg, FedBN
from tests.conftest import IMAGE_SHAPE

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


def pass_on(replies: Iterable[Message], expected: int) -> Iterable[Message]:
    return replies


def evaluate(
    grid: CountingGrid, strategy: ServerStrategy, federation: Federation, round: int, model: FederatedModel, alike: bool
) -> Evaluation:
    """Evaluate everything, as the loop does where nothing is folded into training."""
    evaluator = Evaluator(strategy, federation, one_model=alike, by_batch=False)
    return evaluator.evaluate(grid, round, model, evaluator.clients_to_ask(), pass_on)


def test_the_personal_part_of_the_global_model_is_the_unweighted_mean() -> None:
    initial = {"w": torch.zeros(2), "bn.mean": torch.tensor([9.0]), "bn.count": torch.tensor(0)}
    states = {
        0: RecordDict({PERSONAL: to_record({"bn.mean": torch.tensor([1.0]), "bn.count": torch.tensor(4)})}),
        1: RecordDict({PERSONAL: to_record({"bn.mean": torch.tensor([2.0]), "bn.count": torch.tensor(8)})}),
        2: RecordDict(),  # has not trained yet, so it still has the initial values
    }
    shared = to_record({"w": torch.tensor([1.0, 2.0])})
    model = FederatedModel(initial, shared, frozenset({"bn.mean", "bn.count"}), states).complete
    assert list(model) == ["w", "bn.mean", "bn.count"]
    assert model["w"].tolist() == [1.0, 2.0]
    assert model["bn.mean"].item() == pytest.approx((1 + 2 + 9) / 3)
    assert model["bn.count"].item() == 8


def test_the_age_of_a_personal_part_counts_from_its_last_training() -> None:
    states = {
        0: RecordDict({TRAINED: ConfigRecord({"server-round": 7})}),
        1: RecordDict({TRAINED: ConfigRecord({"server-round": 3})}),
        2: RecordDict(),  # has never trained: it still has the initial values, those of round 0
    }
    kept = FederatedModel({"bn.mean": torch.zeros(1)}, ArrayRecord(), frozenset({"bn.mean"}), states)
    assert kept.ages(7) == [0, 4, 7]
    assert FederatedModel({}, ArrayRecord(), frozenset(), states).ages(7) == []
    assert age_metrics([0, 4, 7]) == {"personal_age_mean": pytest.approx(11 / 3), "personal_age_max": 7}
    assert age_metrics([]) == {}


def test_without_a_personal_part_each_domain_is_evaluated_once(
    grid: CountingGrid, federation: Federation, small_settings: Callable[..., Settings]
) -> None:
    settings = small_settings()
    model = build_model(settings, 10, IMAGE_SHAPE)
    tensors = dict(model.state_dict())
    result = evaluate(
        grid, FedAvg(model), federation, 0, FederatedModel(tensors, to_record(tensors), frozenset(), {}), alike=True
    )
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
    model = build_model(settings, 10, IMAGE_SHAPE)
    strategy = FedBN(model)
    arrays = to_record(dict(model.state_dict()))
    list(grid.send_and_receive(strategy.configure_train(1, arrays, ConfigRecord(), grid)))
    grid.asked = 0
    whole = FederatedModel(dict(model.state_dict()), arrays, strategy.personal, grid.client_states())
    result = evaluate(grid, strategy, federation, 1, whole, alike=False)
    assert grid.asked == 12
    assert [result.clients[c].loss for c in range(6)] != [tested.loss for tested in result.domains.values()]


def test_a_tested_model_knows_its_accuracy() -> None:
    assert Measured(num_examples=8, correct=6, loss=0.5).accuracy == np.float64(0.75)


def evaluated(
    federation: Federation, settings: Settings, kind: type[FedAvg] = FedAvg
) -> tuple[int, Evaluation, torch.nn.Module]:
    """How many messages an untrained model took, what came out, and the model."""
    grid = CountingGrid(ClientAppFactory(settings, federation), len(federation.clients), CPU)
    model = build_model(settings, 10, IMAGE_SHAPE)
    tensors = dict(model.state_dict())
    strategy = kind(model)
    whole = FederatedModel(tensors, to_record(tensors), strategy.personal, grid.client_states())
    result = evaluate(grid, strategy, federation, 0, whole, alike=not strategy.personal)
    return grid.asked, result, model.eval()


def correct(model: torch.nn.Module, federation: Federation, images: np.ndarray) -> int:
    pixels, labels = federation.examples(images).batch(torch.arange(len(images)))
    return int((model(pixels).argmax(1) == labels).sum())


def test_clients_of_several_domains_take_no_evaluation_of_their_own(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("split=dirichlet", "split.num_clients=4")
    federation = build_federation(settings)
    asked, result, model = evaluated(federation, settings)
    assert asked == 6
    union = np.concatenate(list(federation.domain_tests.values()))
    assert [tested.num_examples for tested in result.clients.values()] == [120] * 4
    assert {tested.correct for tested in result.clients.values()} == {correct(model, federation, union)}


def test_a_domain_that_was_left_out_is_evaluated_and_not_pooled(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("split.leave_out=[texture,font]")
    federation = build_federation(settings)
    asked, result, model = evaluated(federation, settings)
    assert asked == 6
    assert list(result.domains) == ["plain", "inverted", "faded", "street"]
    assert list(result.unseen) == ["texture", "font"]
    assert result.unseen["font"].correct == correct(model, federation, federation.unseen_tests["font"])
    assert list(result.clients) == [0, 1, 2, 3]


@pytest.mark.parametrize("strategy", [FedAvg, FedBN])
def test_validation_images_are_evaluated_by_those_who_have_some(
    strategy: type[FedAvg], small_settings: Callable[..., Settings]
) -> None:
    settings = small_settings("split.validation=0.25")
    whole = build_federation(settings)
    first = replace(whole.partitions[0], validation=np.empty(0, np.int64))
    federation = Federation(whole.source, [first, *whole.partitions[1:]])
    asked, result, model = evaluated(federation, settings, strategy)
    assert asked == 6 + (6 if strategy is FedBN else 0) + 5
    assert list(result.validation) == [1, 2, 3, 4, 5]
    for client, tested in result.validation.items():
        held_out = federation.partitions[client].validation
        assert (tested.num_examples, tested.correct) == (10, correct(model, federation, held_out))


def test_a_matched_or_noisy_test_set_is_evaluated_client_by_client(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("split=[domain,feature_noise]", "split.noise=0.5")
    federation = build_federation(settings)
    asked, result, model = evaluated(federation, settings)
    assert asked == 6 + 5  # client 0 has no noise and is tested on its domain
    noisy = federation.examples_of(5, Part.TEST)
    clean = federation.examples(federation.domain_tests["font"])
    assert (noisy.images != clean.images).any()
    pixels, labels = noisy.batch(torch.arange(20))
    assert result.clients[5].correct == int((model(pixels).argmax(1) == labels).sum())
    assert result.domains["font"].correct == correct(model, federation, federation.domain_tests["font"])

    matched = build_federation(small_settings("split.test=matched", "split.clients_per_domain=2"))
    asked, result, model = evaluated(matched, settings)
    assert asked == 6 + 12
    for client, tested in result.clients.items():
        assert tested.correct == correct(model, matched, matched.partitions[client].test)
