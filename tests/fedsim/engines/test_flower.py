"""Nodes that come and go, over a stand-in for Flower's own Grid: its SuperLink and SuperNodes, in this process."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.devices.node import NodeConfig
from fedsim.engines import exchange, flower
from fedsim.engines.flower import PARTITION, PartitionGrid
from fedsim.engines.inline import InlineGrid
from fedsim.errors import FedsimError
from fedsim.messages import CONFIG, KEEPS, METRICS, QUERY_NODE, QUERY_STATE, TRAIN, config_of, message

LINK = 1
"""The source of what Flower's SuperLink answers itself"""


class FlowersGrid(Grid):
    """Answers as a SuperLink does: for a dead node with an error of its own, for a silent one not at all."""

    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}
        self.silent: set[int] = set()
        self.dying: set[int] = set()
        self.received: list[Message] = []
        self._pending: dict[str, Message] = {}
        self._ids = itertools.count()

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for each in messages:
            id_ = f"m{next(self._ids)}"
            each.metadata.__dict__["_message_id"] = id_
            self._pending[id_] = each
            self.received.append(each)
            ids.append(id_)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for id_ in list(message_ids):
            sent = self._pending[id_]
            node = sent.metadata.dst_node_id
            if node in self.dying or node not in self.nodes:
                self.nodes.pop(node, None)
                self.dying.discard(node)
                reply = Message(Error(5, "Node Unavailable"), reply_to=sent)
                reply.metadata.__dict__["_src_node_id"] = LINK
            elif node in self.silent:
                continue
            else:
                reply = Message(self._answer(node, sent), reply_to=sent)
            del self._pending[id_]
            yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, node: int, sent: Message) -> RecordDict:
        if sent.metadata.message_type == QUERY_NODE:
            return RecordDict({CONFIG: NodeConfig.of(self.nodes[node]).profile().told()})
        return RecordDict({METRICS: MetricRecord({"node": node}), CONFIG: ConfigRecord({KEEPS: True})})

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    InlineGrid(lambda device: None, 1, [torch.device("cpu")])  # type: ignore[arg-type,return-value]  # Flower's messages know their sender
    monkeypatch.setattr(flower, "WAIT_FOR_NODES", 0.3)
    for name, value in (("REJOIN", 0.3), ("POLL", 0.01), ("REFRESH", 0.0)):
        monkeypatch.setattr(exchange, name, value)


def device(partition: int, **more: Any) -> dict[str, Any]:
    return {"partition-id": partition, **{key.replace("_", "-"): value for key, value in more.items()}}


def grid_of(*partitions: int, timeout: float | None = None, clients: int = 3) -> tuple[FlowersGrid, PartitionGrid]:
    behind = FlowersGrid()
    behind.nodes = {100 + partition: device(partition) for partition in partitions}
    return behind, PartitionGrid(behind, clients, timeout)


def ask(grid: PartitionGrid, clients: Iterable[int], type_: str = TRAIN) -> list[Message]:
    return list(grid.send_and_receive([message(type_, client, None) for client in clients]))


def node_that_answered(reply: Message) -> Any:
    return reply.content[METRICS]["node"]


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


def test_what_a_dead_node_had_not_answered_is_sent_again_when_it_is_back() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.dying.add(101)
    replies = grid.send_and_receive([message(TRAIN, client, None) for client in range(3)])
    assert node_that_answered(next(replies)) == 100
    behind.nodes[555] = device(1)  # under another number, as without keys
    assert [node_that_answered(reply) for reply in replies] == [555, 102]


def test_a_node_that_stays_away_is_an_error_after_a_while_and_may_come_back_later() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.dying.add(101)
    replies = ask(grid, range(3))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "no node plays it, and none came within" in str(replies[1].error.reason)
    assert replies[1].metadata.src_node_id == 1
    behind.nodes[101] = device(1)
    assert not any(reply.has_error() for reply in ask(grid, range(3)))


def test_a_silent_node_is_an_error_after_the_timeout() -> None:
    behind, grid = grid_of(0, 1, 2, timeout=0.2)
    behind.silent.add(102)
    started = time.monotonic()
    replies = ask(grid, range(3))
    assert time.monotonic() - started < 5
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert replies[2].error.reason == "it has not answered within round_timeout=0.2 seconds"


def test_who_dies_again_and_again_is_given_up() -> None:
    behind, grid = grid_of(0, 1, 2)

    class Mortal(set[int]):
        def __contains__(self, node: object) -> bool:
            return node == 101

    behind.dying = Mortal()
    kept = behind.nodes

    class Returning(dict[int, dict[str, Any]]):
        def pop(self, node: int, default: Any = None) -> Any:  # type: ignore[override]
            return default

    behind.nodes = Returning(kept)
    assert "it was asked 5 times" in str(ask(grid, [1])[0].error.reason)


def test_of_two_that_claim_a_client_the_one_that_came_last_plays_it() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.nodes[42] = device(1)
    assert node_that_answered(ask(grid, [1])[0]) == 42


def test_a_client_that_keeps_something_is_reminded_of_it() -> None:
    behind, grid = grid_of(0, 1, 2)
    ask(grid, [0])
    ask(grid, [0, 1])
    assert [config_of(each)[KEEPS] for each in behind.received[3:]] == [False, True, False]


def test_a_run_starts_with_those_that_are_there_but_not_with_none(caplog: pytest.LogCaptureFixture) -> None:
    _, grid = grid_of(0, 2)
    assert "no node plays the clients 1; they may still join" in caplog.text
    assert sorted(grid.nodes) == [0, 2]
    with pytest.raises(FedsimError, match="no node of this federation has connected within"):
        grid_of()
    grid_of(0, 1, 2, 9)
    assert "there is no client 9" in caplog.text


@pytest.mark.parametrize(("shares", "told"), [({}, False), ({"share_personal": True}, True)])
def test_devices_keep_their_states_to_themselves(shares: dict[str, bool], told: bool) -> None:
    behind = FlowersGrid()
    behind.nodes = {partition: device(partition, **shares) for partition in range(2)}
    grid = PartitionGrid(behind, 2)
    states = grid.client_states()
    assert (states is not None) == told
    assert (QUERY_STATE in {each.metadata.message_type for each in behind.received}) == told


def test_the_global_model_is_evaluated_by_the_server(make_federation: Callable[..., Any]) -> None:
    from flwr.clientapp import ClientApp

    from fedsim.messages import EVALUATE_GLOBAL

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
