"""FedNova's and FedDyn's servers against their formulas, over replies made by hand."""

from collections.abc import Iterable

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.reply_records import Question, ReplyFault
from fedsim.methods.training import ServerTraining
from strategies import FedAvg, FedDyn, FedNova

CLIENTS = 5


@pytest.fixture
def grid() -> Iterable[InlineGrid]:
    with InlineGrid(lambda device: None, CLIENTS, [torch.device("cpu")]) as grid:  # type: ignore[arg-type,return-value]
        yield grid


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def replies(messages: Iterable[Message], seed: int, metrics: dict[int, dict[str, float]]) -> list[Message]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for message in messages:
        sent, client = to_tensors(message.content.array_records["arrays"]), message.metadata.dst_node_id
        trained = {
            name: each + torch.rand(each.shape, generator=generator, dtype=torch.float64)
            if each.is_floating_point()
            else each + client
            for name, each in sent.items()
        }
        content = {"metrics": MetricRecord({"loss": 1.0, **metrics[client]}), "arrays": to_record(trained)}
        found.append(Message(RecordDict(content), reply_to=message))  # type: ignore[arg-type]
    return found


def test_fednova_takes_the_mean_number_of_steps_of_the_mean_update_per_step(grid: InlineGrid) -> None:
    network = model()
    strategy = FedNova(network, ServerTraining(fraction=0.6))
    arrays = to_record(network.state_dict())
    metrics = {client: {"num-examples": 10 * (client + 1), "normalizer": 2.0 * client + 1} for client in range(CLIENTS)}
    for round in (1, 2):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        found = replies(messages, round, metrics)
        before = to_tensors(arrays)
        result, told = strategy.aggregate_train(round, found)
        assert result is not None
        weights = {each.metadata.src_node_id: 10.0 * (each.metadata.src_node_id + 1) for each in found}
        total = sum(weights.values())
        steps = sum(weight / total * metrics[client]["normalizer"] for client, weight in weights.items())
        for name, tensor in to_tensors(result).items():
            answers = {
                each.metadata.src_node_id: to_tensors(each.content.array_records["arrays"])[name] for each in found
            }
            if "running" in name:
                expected = sum(weights[client] / total * answer for client, answer in answers.items())
            elif "tracked" in name:
                expected = max(answers.values())  # type: ignore[type-var]
            else:
                mean = sum(
                    weights[client] / total * (answer - before[name]) / metrics[client]["normalizer"]
                    for client, answer in answers.items()
                )
                expected = before[name] + steps * mean
            torch.testing.assert_close(tensor, torch.as_tensor(expected), msg=name)
        assert told is not None
        arrays = result


def test_fednova_with_as_many_steps_everywhere_is_fedavg_bit_for_bit(grid: InlineGrid) -> None:
    network, metrics = model(), {client: {"num-examples": 7, "normalizer": 12.3} for client in range(CLIENTS)}
    results = []
    for strategy in (FedNova(network), FedAvg(network)):
        messages = strategy.configure_train(1, to_record(network.state_dict()), ConfigRecord(), grid)
        result, _ = strategy.aggregate_train(1, replies(messages, 1, metrics))
        assert result is not None
        results.append(to_tensors(result))
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_feddyn_takes_the_drift_from_the_average_and_survives_a_checkpoint(grid: InlineGrid) -> None:
    network, alpha = model(), 0.2
    strategy = FedDyn(network, ServerTraining(fraction=0.6), alpha=alpha)
    metrics = {client: {"num-examples": 10 * (client + 1)} for client in range(CLIENTS)}
    arrays = to_record(network.state_dict())
    drift = {name: torch.zeros_like(each) for name, each in network.named_parameters()}
    for round in (1, 2, 3):
        found = replies(strategy.configure_train(round, arrays, ConfigRecord(), grid), round, metrics)
        before = to_tensors(arrays)
        result, _ = strategy.aggregate_train(round, found)
        assert result is not None
        for name, tensor in to_tensors(result).items():
            answers = [to_tensors(each.content.array_records["arrays"])[name] for each in found]
            if name not in drift:
                expected = torch.stack(answers).max(0).values if "tracked" in name else torch.stack(answers).mean(0)
            else:
                mean = torch.stack(answers).mean(0)
                drift[name] = drift[name] - alpha / CLIENTS * sum(answer - before[name] for answer in answers)
                expected = mean - drift[name] / alpha
            torch.testing.assert_close(tensor, expected, msg=name)
        restored = FedDyn(network, ServerTraining(fraction=0.6), alpha=alpha)
        restored.load_state(strategy.state())
        strategy, arrays = restored, result


def test_no_alpha_makes_feddyn_fedavg(grid: InlineGrid) -> None:
    """It cancels in the server's step, which goes on behind the average by the share of the clients that trained.

    So there is no neutral setting, and 0, for which the step is 0 / 0, is refused.
    """
    network, metrics = model(), {client: {"num-examples": 7} for client in range(CLIENTS)}
    before, results = to_record(network.state_dict()), []
    for strategy in (FedDyn(network, alpha=0.1), FedDyn(network, alpha=1e-4)):
        found = replies(strategy.configure_train(1, before, ConfigRecord(), grid), 1, metrics)
        result, _ = strategy.aggregate_train(1, found)
        assert result is not None
        results.append(to_tensors(result))
    for name, _ in network.named_parameters():
        answers = torch.stack([to_tensors(each.content.array_records["arrays"])[name] for each in found])
        expected = 2 * answers.mean(0) - to_tensors(before)[name]
        for result in results:
            torch.testing.assert_close(result[name], expected, msg=name, rtol=1e-4, atol=1e-4)


def test_an_impossible_alpha_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy\.alpha=0 is not possible"):
        FedDyn(model(), alpha=0)


@pytest.mark.parametrize("normalizer", [1.0, 0.5])
def test_a_single_step_is_a_normalizer_and_none_is_not(normalizer: float) -> None:
    check = FedNova(model()).reply_records["metrics"]
    check({}, Question(ConfigRecord(), {}, {}, metrics={"normalizer": normalizer}))
    for other in ({"normalizer": 0.0}, {}):
        with pytest.raises(ReplyFault, match="normalizer"):
            check({}, Question(ConfigRecord(), {}, {}, metrics=other))  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, float("inf")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.alpha={alpha} is not possible"):
        FedDyn(model(), alpha=alpha)
