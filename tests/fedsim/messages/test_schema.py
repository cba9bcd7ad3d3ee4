"""Messages hold their records under fixed names, and are read whatever the names a foreign client used."""

from collections.abc import Iterator

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg

from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import (
    CONFIG,
    EVALUATE_GLOBAL,
    NUM_EXAMPLES,
    QUERY_STATE,
    ROUND,
    TRAIN,
    arrays_of,
    config_of,
    message,
    metrics_of,
    number,
)


@pytest.fixture(autouse=True)
def grid() -> Iterator[InlineGrid]:
    """Messages can only be made in a process that has a sender, which a Grid sets."""
    with InlineGrid(lambda device: ClientApp(), 3, [torch.device("cpu")]) as grid:
        yield grid


def test_a_message_carries_what_it_was_given() -> None:
    arrays = to_record({"weight": torch.ones(2)})
    made = message(TRAIN, 7, arrays, ConfigRecord({ROUND: 4}))
    assert made.metadata.dst_node_id == 7
    assert made.metadata.message_type == "train"
    assert arrays_of(made) is arrays
    assert config_of(made)[ROUND] == 4


def test_a_message_without_arrays_has_an_empty_config_and_no_arrays() -> None:
    made = message(QUERY_STATE, 0, None)
    assert list(made.content) == [CONFIG]
    assert len(config_of(made)) == len(arrays_of(made)) == len(metrics_of(made)) == 0


def test_two_messages_do_not_share_their_config() -> None:
    config_of(message(TRAIN, 0, None))[ROUND] = 1
    assert ROUND not in config_of(message(TRAIN, 0, None))


def test_the_types_are_ones_that_flower_can_route() -> None:
    app = ClientApp()

    @app.evaluate("global_model")
    def evaluate(message: Message, context: object) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"n": 1})}), reply_to=message)

    @app.query("state")
    def state(message: Message, context: object) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"n": 2})}), reply_to=message)

    with InlineGrid(lambda device: app, 1, [torch.device("cpu")]) as grid:
        replies = list(grid.send_and_receive([message(EVALUATE_GLOBAL, 0, None), message(QUERY_STATE, 0, None)]))
    assert [metrics_of(reply)["n"] for reply in replies] == [1, 2]


def test_records_of_a_foreign_client_are_found_under_any_name() -> None:
    content = RecordDict({"model": to_record({"w": torch.ones(1)}), "numbers": MetricRecord({"a": 1.5})})
    reply = Message(content, reply_to=message(TRAIN, 0, None))
    assert list(arrays_of(reply)) == ["w"]
    assert dict(metrics_of(reply)) == {"a": 1.5}
    assert len(config_of(reply)) == 0


def test_our_names_are_those_of_flowers_strategies(grid: InlineGrid) -> None:
    strategy = FlowersFedAvg(min_available_nodes=3)
    sent = list(strategy.configure_train(5, ArrayRecord(), ConfigRecord(), grid))
    assert sent[0].metadata.message_type == TRAIN
    assert config_of(sent[0])[ROUND] == 5
    assert strategy.weighted_by_key == NUM_EXAMPLES


def test_a_number_is_a_float_and_a_list_is_none() -> None:
    metrics = MetricRecord({"count": 3, "list": [1.0, 2.0]})
    assert type(number(metrics, "count")) is float
    assert number(metrics, "count") == 3
    with pytest.raises(TypeError, match="the metric list is a list, not a number"):
        number(metrics, "list")
    with pytest.raises(KeyError):
        number(metrics, "missing")
