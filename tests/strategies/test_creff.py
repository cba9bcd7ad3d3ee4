"""CReFF's server: gradients are averaged class by class, the model is FedAvg's, and the classifier is trained anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.cost import QueryPasses, Workload
from fedsim.engines.inline import InlineGrid
from fedsim.heads import use_retrained
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of
from fedsim.methods.reply_records import Question, ReplyFault
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import CReFF
from strategies.federated_features import matched, retrained

FEW: dict[str, Any] = {"features_per_class": 3, "match_steps": 4, "retrain_epochs": 2}
WORDS = ("strategy.features_per_class=3", "strategy.match_steps=4", "strategy.retrain_epochs=2")


def network() -> nn.Module:
    torch.manual_seed(0)
    return use_retrained(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)))


def gradient(value: float, label: int) -> dict[str, torch.Tensor]:
    return {
        f"{label}/weight": value * torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.5, -2.0]]),
        f"{label}/bias": value * torch.tensor([1.0, -1.0, 2.0]),
    }


REPLIES = [{**gradient(1, 0), **gradient(2, 2)}, gradient(3, 0), gradient(5, 2)]


def test_a_round_is_the_one_computed_by_hand(make_grid: Callable[[], InlineGrid]) -> None:
    model = network()
    server, arrays = CReFF(model, **FEW), model.state_dict()
    before = server.features.clone()
    assert before.shape == (3, 3, 2)
    messages = list(server.configure_train(1, to_record(arrays), ConfigRecord(), make_grid()))
    replies = []
    for number, (message, own) in enumerate(zip(messages, REPLIES, strict=True), start=1):
        assert set(message.content["cached/entries"]) == {"3.retrained.weight", "3.retrained.bias"}
        assert not any("retrained" in name for name in arrays_of(message))
        trained = {name: number * tensor for name, tensor in to_tensors(arrays_of(message)).items()}
        metrics = MetricRecord({"num-examples": number, "loss": 1.0})
        content = {"metrics": metrics, "arrays": to_record(trained), "class_gradients": to_record(own)}
        replies.append(Message(RecordDict(content), reply_to=message))
    found, _ = server.aggregate_train(1, replies)
    assert found is not None
    new = to_tensors(found)
    for name in ("1.weight", "3.trained.weight"):  # (1 * 1 + 2 * 2 + 3 * 3) / 6 times as large
        torch.testing.assert_close(new[name], arrays[name] * 14 / 6)
    # Class 0 has the gradients 1 and 3, class 2 has 2 and 5, each client counted once.
    mean = {0: tuple(gradient(2, 0).values()), 2: tuple(gradient(3.5, 2).values())}
    sent = arrays["3.retrained.weight"], arrays["3.retrained.bias"]
    features = matched(before, mean, sent, steps=4, lr=0.1)  # type: ignore[arg-type]
    torch.testing.assert_close(server.features, features)
    assert torch.equal(features[1], before[1])
    generator = torch_generator(0, "retraining", round=1)
    weight, bias = retrained(features, epochs=2, lr=0.01, batch_size=32, generator=generator)
    torch.testing.assert_close(new["3.retrained.weight"], weight)
    torch.testing.assert_close(new["3.retrained.bias"], bias)
    again = list(server.configure_train(2, found, ConfigRecord(), make_grid()))
    assert all(torch.equal(to_tensors(each.content["cached/entries"])["3.retrained.weight"], weight) for each in again)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({}, "it sent no gradients"),
        (gradient(1, 3), "it sent gradients of other entries than it was asked for"),
        ({"0/weight": torch.zeros(3, 2)}, r"it sent gradients of other entries .*0/bias"),
        ({**gradient(1, 0), "0/bias": torch.zeros(2)}, r"it sent 0/bias as float32 \(2,\), which is float32 \(3,\)"),
        (gradient(2e3, 0), r"in 0/weight, where update_limit=1000"),
    ],
)
def test_gradients_of_another_form_are_refused(sent: dict[str, torch.Tensor], fault: str) -> None:
    check = CReFF(network(), **FEW).reply_records["class_gradients"]
    question = Question(ConfigRecord(), {}, network().state_dict(), update_limit=1000)
    check(REPLIES[0], question)
    with pytest.raises(ReplyFault, match=fault):
        check(sent, question)


def test_beside_the_retrained_classifier_it_is_fedavg_bit_for_bit(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    common = ("rounds=3", "fraction=0.5", "engine=inline")
    result = run(prepare(small_settings("strategy=creff", *WORDS, *common)), tmp_path / "creff", Reporter())
    plain = run(prepare(small_settings("strategy=fedavg", *common)), tmp_path / "fedavg", Reporter())
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("creff", "fedavg"))
    assert all(torch.equal(one[name.replace("head.", "head.trained.")], tensor) for name, tensor in other.items())
    assert not torch.equal(one["head.retrained.weight"], one["head.trained.weight"])
    assert result.rounds["trained_global_accuracy"].tolist() == plain.rounds["global_accuracy"].tolist()
    assert result.rounds["global_accuracy"].tolist() != plain.rounds["global_accuracy"].tolist()


def test_the_first_features_are_drawn_from_the_seed_and_the_gradients_cost_passes() -> None:
    server = CReFF(network(), ServerTraining(seed=7), repeats=4, **FEW)
    drawn = torch.randn((3, 3, 2), generator=torch_generator(7, "federated features"))
    assert torch.equal(server.features, drawn)
    assert server.training_load == Workload(queries=(QueryPasses(share=1.0, passes=4),))


def test_features_survive_a_stop() -> None:
    server, other = (CReFF(network(), ServerTraining(seed=seed), **FEW) for seed in (1, 2))
    other.load_state(server.state())
    assert torch.equal(other.features, server.features)


@pytest.mark.parametrize("option", ["features_per_class", "match_steps", "retrain_epochs", "retrain_batch_size"])
def test_one_is_enough_and_none_is_not(option: str) -> None:
    CReFF(network(), **{**FEW, option: 1})
    with pytest.raises(
        UserError, match=rf"^strategy\.{option}=0 is not possible: choose a whole number of at least 1\.$"
    ):
        CReFF(network(), **{**FEW, option: 0})


@pytest.mark.parametrize("option", ["match_lr", "retrain_lr"])
@pytest.mark.parametrize("lr", [0.0, float("inf")])
def test_learning_rates_out_of_range_are_refused(option: str, lr: float) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{option}={lr} is not possible: choose a number above 0\.$"):
        CReFF(network(), **{option: lr})  # type: ignore[arg-type]


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=creff needs a network that ends in its two classifiers: leave "):
        CReFF(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    with pytest.raises(UserError, match=r"^strategy=creff needs a classifier with a bias, and that of this network"):
        CReFF(use_retrained(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))))
    frozen = network()
    frozen.get_parameter("3.trained.weight").requires_grad_(False)
    with pytest.raises(UserError, match=r"^strategy=creff trains the network and its classifier: leave train_only out"):
        CReFF(frozen)
