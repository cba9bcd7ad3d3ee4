"""FedAvg against averages computed by hand, inside this project's loop and inside Flower's own."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn

from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.training import ServerTraining
from strategies import FedAvg

MakeModel = Callable[..., nn.Module]


def replies_of(values: list[list[float]], examples: list[int], counters: list[int]) -> list[Message]:
    """Replies as clients would send them: a weight, a BatchNorm counter, and metrics."""
    messages = []
    for client, (value, n, counter) in enumerate(zip(values, examples, counters, strict=True)):
        arrays = to_record({"weight": torch.tensor(value), "bn.num_batches_tracked": torch.tensor(counter)})
        metrics = MetricRecord({"num-examples": n, "loss": float(client)})
        ask = Message(RecordDict(), client, "train")
        messages.append(Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=ask))
    return messages


@pytest.mark.parametrize(
    ("weighting", "expected"), [("examples", [1 * 0.1 + 4 * 0.3 + 7 * 0.6, 10.0]), ("uniform", [4.0, 10.0])]
)
def test_the_average_is_the_one_computed_by_hand(weighting: str, expected: list[float], grid: InlineGrid) -> None:
    replies = replies_of([[1.0, 10.0], [4.0, 10.0], [7.0, 10.0]], [10, 30, 60], [3, 5, 4])
    arrays, metrics = FedAvg(training=ServerTraining(weighting=weighting)).aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    averaged = to_tensors(arrays)
    np.testing.assert_allclose(averaged["weight"], expected, rtol=1e-7)
    assert averaged["weight"].dtype == torch.float32
    # A counter stays an integer; Flower's own FedAvg returns a float here.
    assert averaged["bn.num_batches_tracked"].dtype == torch.int64
    assert averaged["bn.num_batches_tracked"].item() == 5
    # Metrics are weighted by examples whatever the weighting of the arrays.
    assert metrics["loss"] == pytest.approx(0 * 0.1 + 1 * 0.3 + 2 * 0.6)
    assert "num-examples" not in metrics


def test_replies_are_let_go_one_by_one(grid: InlineGrid) -> None:
    """The running average asks for a reply only after the one before it has been added."""
    alive: list[int] = []

    def stream() -> object:
        for client, reply in enumerate(replies_of([[1.0], [2.0], [3.0]], [1, 1, 1], [0, 0, 0])):
            alive.append(client)
            yield reply
            reply.content["arrays"] = ArrayRecord()  # would spoil an average that looked at it later

    arrays, _ = FedAvg().aggregate_train(1, stream())  # type: ignore[arg-type]
    assert arrays is not None
    assert to_tensors(arrays)["weight"].tolist() == [2.0]
    assert alive == [0, 1, 2]


def test_a_failed_client_is_left_out_and_named(grid: InlineGrid, caplog: pytest.LogCaptureFixture) -> None:
    replies = replies_of([[1.0], [4.0]], [10, 30], [0, 0])
    failed = Message(Error(2, "out of memory"), reply_to=Message(RecordDict(), 7, "train"))
    arrays, _ = FedAvg().aggregate_train(3, [replies[0], failed, replies[1]])
    assert arrays is not None
    assert to_tensors(arrays)["weight"].item() == pytest.approx((10 * 1 + 30 * 4) / 40)
    assert "client 7 failed in round 3: out of memory" in caplog.text


def test_a_failed_evaluation_is_left_out_and_named(grid: InlineGrid, caplog: pytest.LogCaptureFixture) -> None:
    replies = replies_of([[1.0], [4.0]], [10, 30], [0, 0])
    failed = Message(Error(2, "out of memory"), reply_to=Message(RecordDict(), 7, "evaluate"))
    metrics = FedAvg().aggregate_evaluate(3, [replies[0], failed, replies[1]])
    assert metrics is not None
    assert metrics["loss"] == pytest.approx(30 / 40)
    assert "client 7 failed in round 3: out of memory" in caplog.text
    assert FedAvg().aggregate_evaluate(3, [failed]) is None


def test_a_round_without_any_reply_changes_nothing(grid: InlineGrid) -> None:
    assert FedAvg().aggregate_train(1, []) == (None, None)


def test_its_summary_tells_its_settings(grid: InlineGrid, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        FedAvg(training=ServerTraining(weighting="uniform", fraction=0.25)).summary()
    assert caplog.messages == ["FedAvg: weighting uniform, fraction 0.25, 0 personal entries"]


def test_the_cohort_depends_on_seed_and_round_only(grid: InlineGrid) -> None:
    def cohort(strategy: FedAvg, round: int) -> list[int]:
        messages = strategy.configure_train(round, ArrayRecord(), ConfigRecord(), grid)
        return [message.metadata.dst_node_id for message in messages]

    first = [cohort(FedAvg(training=ServerTraining(fraction=0.7, seed=1)), round) for round in range(1, 9)]
    again = [cohort(FedAvg(training=ServerTraining(fraction=0.7, seed=1)), round) for round in range(8, 0, -1)][::-1]
    assert first == again
    assert all(len(each) == 2 and each == sorted(each) for each in first)
    assert len({tuple(each) for each in first}) > 1
    assert first != [cohort(FedAvg(training=ServerTraining(fraction=0.7, seed=2)), round) for round in range(1, 9)]


def test_everyone_is_evaluated_whatever_the_fraction(grid: InlineGrid) -> None:
    messages = FedAvg(training=ServerTraining(fraction=0.34)).configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid)
    assert [message.metadata.dst_node_id for message in messages] == [0, 1, 2]


def test_flowers_own_start_gives_the_average_of_its_clients(
    grid: InlineGrid, make_grid: Callable[[], InlineGrid], make_model: MakeModel
) -> None:
    """Two rounds in Flower's loop equal two rounds of the clients' steps averaged by hand."""
    initial = make_model().state_dict()
    result = FedAvg().start(grid, ArrayRecord(initial), num_rounds=2)
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == pytest.approx(0.1)

    state = initial
    by_hand = make_grid()
    for round in (1, 2):
        messages = list(FedAvg().configure_train(round, ArrayRecord(state), ConfigRecord(), by_hand))
        replies = [to_tensors(reply.content["arrays"]) for reply in by_hand.send_and_receive(messages)]
        weights = [10 / 60, 20 / 60, 30 / 60]
        state = {
            name: sum(w * reply[name].double() for w, reply in zip(weights, replies, strict=True)).to(tensor.dtype)
            if tensor.is_floating_point()
            else torch.stack([reply[name] for reply in replies]).max()
            for name, tensor in state.items()
        }
    for name, tensor in result.arrays.to_torch_state_dict().items():
        torch.testing.assert_close(tensor, state[name])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weighting": "size"}, "strategy.weighting=size is not known: choose examples or uniform"),
        ({"fraction": 0}, "fraction=0 is not possible"),
        ({"fraction": 2}, "fraction=2 is not possible"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        FedAvg(training=ServerTraining(**options))  # type: ignore[arg-type]
