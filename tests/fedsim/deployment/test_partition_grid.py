"""The Grid of ``flwr run``: order, what clients keep and tell, who evaluates the global model."""

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.deployment.partition_grid import PARTITION, PartitionGrid
from fedsim.messages.schema import KEEPS, METRICS, QUERY_STATE, TRAIN, config_of, message
from tests.fedsim.deployment.nodes import FlowersGrid, ask, device, grid_of, node_that_answered

pytestmark = pytest.mark.usefixtures("impatient")


def test_replies_come_from_clients_in_the_order_of_the_messages() -> None:
    _, grid = grid_of(2, 0, 1)
    replies = ask(grid, [1, 0, 2])
    assert [reply.metadata.src_node_id for reply in replies] == [1, 0, 2]
    assert [node_that_answered(reply) for reply in replies] == [101, 100, 102]
    assert grid.folds_evaluation


def test_a_simulated_node_plays_every_second_client_one_message_at_a_time() -> None:
    behind = FlowersGrid()
    behind.nodes = {7: device(0, num_partitions=2), 3: device(1, num_partitions=2)}
    grid = PartitionGrid(behind, 5)
    assert [node_that_answered(reply) for reply in ask(grid, range(5))] == [7, 3, 7, 3, 7]
    assert [config_of(each)[PARTITION] for each in behind.received[2:]] == [0, 1, 2, 3, 4]
    assert not grid.folds_evaluation


def test_a_client_that_keeps_something_is_reminded_of_it() -> None:
    behind, grid = grid_of(0, 1, 2)
    ask(grid, [0])
    ask(grid, [0, 1])
    assert [config_of(each)[KEEPS] for each in behind.received[3:]] == [False, True, False]


def test_a_client_that_comes_to_keep_nothing_is_not_reminded() -> None:
    behind, grid = grid_of(0, 1)
    ask(grid, range(2))
    behind.keeps = {101}
    ask(grid, range(2))
    ask(grid, range(2))
    told = [config_of(each)[KEEPS] for each in behind.received if each.metadata.message_type == TRAIN]
    assert told == [False, False, True, True, False, True]


@pytest.mark.parametrize(("shares", "told"), [({}, False), ({"share_personal": True}, True)])
def test_devices_keep_their_states_to_themselves(shares: dict[str, bool], told: bool) -> None:
    behind = FlowersGrid()
    behind.nodes = {partition: device(partition, **shares) for partition in range(2)}
    grid = PartitionGrid(behind, 2)
    states = grid.client_states()
    assert (states is not None) == told
    assert (QUERY_STATE in {each.metadata.message_type for each in behind.received}) == told


def test_a_device_that_does_not_tell_its_state_costs_the_global_model_and_not_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    behind = FlowersGrid()
    behind.nodes = {partition: device(partition, share_personal=True) for partition in range(2)}
    grid = PartitionGrid(behind, 2)
    behind.failing[1] = "<class 'RuntimeError'>:<'the disk is full'>"
    assert grid.client_states() is None
    assert "there is no global model for now: client 1 did not tell its state: RuntimeError: the disk is full" in (
        caplog.text
    )
    behind.failing.clear()
    behind.dying.add(1)
    assert grid.client_states() is None
    behind.nodes[1] = device(1, share_personal=True)
    ask(grid, range(2))
    states = grid.client_states()
    assert states is not None
    assert sorted(states) == [0, 1]


def test_a_simulated_node_that_does_not_tell_its_state_is_an_error() -> None:
    behind = FlowersGrid()
    behind.nodes = {7: device(0, num_partitions=1)}
    grid = PartitionGrid(behind, 2)
    behind.failing[7] = "no memory"
    with pytest.raises(FedsimError, match=r"^client 0 did not tell its state: no memory$"):
        grid.client_states()


def test_the_global_model_is_evaluated_by_the_server(make_federation: Callable[..., Any]) -> None:
    from flwr.clientapp import ClientApp

    from fedsim.messages.schema import EVALUATE_GLOBAL

    app = ClientApp()

    @app.evaluate("global_model")
    def here(message: Message, context: Any) -> Message:
        return Message(RecordDict({METRICS: MetricRecord({"node": -1})}), reply_to=message)

    behind = FlowersGrid()
    behind.nodes = {100: device(0)}
    grid = PartitionGrid(behind, 1, server_app=lambda: app)
    replies = list(grid.send_and_receive([message(EVALUATE_GLOBAL, 0, None), message(TRAIN, 0, None)]))
    assert [node_that_answered(reply) for reply in replies] == [-1, 100]
    assert EVALUATE_GLOBAL not in {each.metadata.message_type for each in behind.received}
