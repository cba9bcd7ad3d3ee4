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
from fedsim.engines import exchange, flower, roll
from fedsim.engines.flower import PARTITION, PartitionGrid
from fedsim.engines.inline import InlineGrid
from fedsim.engines.reasons import one_line
from fedsim.errors import FedsimError, UserError
from fedsim.messages import CONFIG, KEEPS, METRICS, QUERY_NODE, QUERY_STATE, TRAIN, config_of, message

LINK = 1
"""The source of what Flower's SuperLink answers itself"""


class FlowersGrid(Grid):
    """Answers as a SuperLink does: for a dead node with an error of its own, for a silent one not at all."""

    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}
        self.silent: set[int] = set()
        self.dying: set[int] = set()
        self.failing: dict[int, str] = {}
        """Nodes whose app raises, and what they say of it"""
        self.keeps: set[int] | None = None
        """The nodes that keep something, all unless said otherwise"""
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
            elif node in self.failing:
                reply = Message(Error(2, self.failing[node]), reply_to=sent)
            else:
                reply = Message(self._answer(node, sent), reply_to=sent)
            del self._pending[id_]
            yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, node: int, sent: Message) -> RecordDict:
        if sent.metadata.message_type == QUERY_NODE:
            config = self.nodes[node]
            return RecordDict({CONFIG: NodeConfig.of(config, simulated="num-partitions" in config).profile().told()})
        keeps = self.keeps is None or node in self.keeps
        return RecordDict({METRICS: MetricRecord({"node": node}), CONFIG: ConfigRecord({KEEPS: keeps})})

    def asked(self, node: int) -> int:
        """How often that node has been asked who it is."""
        return sum(
            each.metadata.dst_node_id == node and each.metadata.message_type == QUERY_NODE for each in self.received
        )

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
    monkeypatch.setattr(roll, "REJOIN", 0.3)
    for name, value in (("POLL", 0.01), ("REFRESH", 0.0)):
        monkeypatch.setattr(exchange, name, value)


class Clock:
    """Seconds that pass at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, impatient: None) -> Clock:
    """The seconds of a real run."""
    monkeypatch.setattr(roll, "REJOIN", 120.0)
    for name, value in (("POLL", 1.0), ("REFRESH", 3.0)):
        monkeypatch.setattr(exchange, name, value)
    clock = Clock()
    for module in (roll, exchange, flower):
        monkeypatch.setattr(module, "time", clock)
    return clock


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


def test_of_two_that_claim_a_client_the_one_that_came_first_plays_it(caplog: pytest.LogCaptureFixture) -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.nodes[42] = device(1)
    for _ in range(3):
        assert node_that_answered(ask(grid, [1])[0]) == 101
    assert caplog.text.count("nodes 101 and 42 both say they play client 1: 101 does") == 1
    del behind.nodes[101]
    assert node_that_answered(ask(grid, [1])[0]) == 42
    behind.nodes[101] = device(1)
    grid.refresh()
    grid.refresh()
    assert node_that_answered(ask(grid, [1])[0]) == 42


def test_a_node_that_comes_back_under_another_number_plays_once_the_old_one_is_noticed_dead() -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.nodes[42] = device(1)
    grid.refresh()
    grid.refresh()
    assert grid.node_of(1) == 101
    behind.dying.add(101)  # the messages to it are answered so, and until then it is among those that are there
    replies = ask(grid, range(3))
    assert [node_that_answered(reply) for reply in replies] == [100, 42, 102]


def test_who_says_it_is_simulated_plays_nothing_among_devices(caplog: pytest.LogCaptureFixture) -> None:
    behind = FlowersGrid()
    behind.nodes = {7: device(0, num_partitions=1), 101: device(1)}
    grid = PartitionGrid(behind, 2)
    assert [grid.node_of(0), grid.node_of(1)] == [None, 101]
    assert grid.folds_evaluation
    assert caplog.text.count("node 7 is left out: it says it is simulated, and others are devices") == 1
    del behind.nodes[101]
    assert all(reply.has_error() for reply in ask(grid, range(2)))
    assert grid.folds_evaluation


def test_a_device_that_says_it_plays_several_clients_plays_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(1, 2)
    told = NodeConfig.of(device(0)).profile().told()
    told["num_partitions"] = 1
    monkeypatch.setattr(behind, "_answer", lambda node, sent: RecordDict({CONFIG: told}))
    behind.nodes[9] = device(0)
    grid.refresh()
    grid.refresh()
    assert sorted(grid.nodes) == [1, 2]
    assert "node 9 is left out for now: it is a device, and says it plays several clients" in caplog.text


@pytest.mark.parametrize(
    "content",
    [RecordDict(), RecordDict({CONFIG: MetricRecord({"partition": 0})}), RecordDict({CONFIG: ConfigRecord()})],
)
def test_an_answer_of_another_form_leaves_a_node_out(
    content: RecordDict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(1, 2)
    monkeypatch.setattr(behind, "_answer", lambda node, sent: content)
    behind.nodes[100] = device(0)
    grid.refresh()
    grid.refresh()
    assert sorted(grid.nodes) == [1, 2]
    assert "node 100 is left out for now: it does not say who it is" in caplog.text


def test_a_node_that_cannot_say_who_it_is_is_asked_again_less_and_less_often(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(0, 1)
    behind.nodes[102] = device(2)
    behind.failing[102] = "<class 'fedsim.errors.UserError'>:<'there are no images.'>"
    asked_at = []
    for second in range(0, 600, 3):
        clock.sleep(3)
        before = behind.asked(102)
        grid.refresh()
        asked_at += [second] * (behind.asked(102) - before)
    assert asked_at == [0, 63, 186, 429]  # 60, 120 and 240 seconds after each answer, which came 3 after the question
    assert caplog.text.count("node 102 is left out for now: there are no images.") == 1
    behind.failing.clear()
    clock.sleep(480)
    grid.refresh()
    grid.refresh()
    assert grid.node_of(2) == 102


def test_a_silent_node_holds_up_neither_the_others_nor_the_timeout(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind, grid = grid_of(0, 1, timeout=30)
    behind.nodes[102] = device(2)
    behind.silent.add(102)

    def waits(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("send_and_receive waits for the slowest")

    monkeypatch.setattr(behind, "send_and_receive", waits)
    started = clock.now
    replies = ask(grid, range(3))
    assert clock.now - started <= 32
    assert [reply.has_error() for reply in replies] == [False, False, True]
    for _ in range(100):
        clock.sleep(3)
        grid.refresh()
    assert caplog.text.count("node 102 is left out for now: it does not answer") == 1
    assert behind.asked(102) == 3  # after 0, 120 and 300 seconds
    behind.silent.clear()  # however late
    grid.refresh()
    assert grid.node_of(2) == 102


def test_who_comes_back_is_asked_anew_since_it_may_be_another_client() -> None:
    behind, grid = grid_of(0, 1)
    del behind.nodes[101]
    grid.refresh()
    behind.nodes[101] = device(2)
    grid.refresh()
    grid.refresh()
    assert [grid.node_of(1), grid.node_of(2)] == [None, 101]
    assert behind.asked(101) == 2
    assert behind.asked(100) == 1


def test_a_dead_node_is_waited_for_once_and_not_in_every_exchange(clock: Clock) -> None:
    behind, grid = grid_of(0, 1, 2)
    behind.dying.add(101)
    started = clock.now
    assert ask(grid, [1])[0].has_error()
    assert 120 < clock.now - started < 130
    waited = clock.now
    for _ in range(20):
        assert [reply.has_error() for reply in ask(grid, range(3))] == [False, True, False]
    assert clock.now - waited < 60  # a second for the answers of the others
    behind.nodes[101] = device(1)
    assert node_that_answered(ask(grid, [1])[0]) == 101
    behind.dying.add(101)  # waited for once more
    replies = grid.send_and_receive([message(TRAIN, client, None) for client in range(3)])
    next(replies)
    clock.sleep(100)
    behind.nodes[101] = device(1)
    assert node_that_answered(next(replies)) == 101


def test_the_seconds_that_a_client_is_away_count_across_exchanges(clock: Clock) -> None:
    behind, grid = grid_of(0, 1, 2, timeout=50)
    del behind.nodes[101]
    reasons = []
    for _ in range(4):
        (reply,) = ask(grid, [1])
        reasons.append(reply.error.reason)
    late = "it has not answered within round_timeout=50 seconds"
    assert reasons == [late, late, *["no node plays it, and none came within 120 seconds"] * 2]


def test_a_stranger_that_says_nothing_prolongs_that_by_a_minute_and_once(clock: Clock) -> None:
    behind, grid = grid_of(0, 1)
    clock.sleep(121)
    behind.nodes[102] = device(0)
    behind.silent.add(102)
    started = clock.now
    assert ask(grid, [2])[0].has_error()
    assert 60 < clock.now - started < 70
    clock.sleep(60)
    started = clock.now
    assert ask(grid, [2])[0].has_error()
    assert behind.asked(102) == 2
    assert clock.now - started < 5


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


def test_a_run_starts_with_those_that_are_there_but_not_with_none(caplog: pytest.LogCaptureFixture) -> None:
    _, grid = grid_of(0, 2)
    assert "no node plays the clients 1; they may still join" in caplog.text
    assert sorted(grid.nodes) == [0, 2]
    with pytest.raises(FedsimError, match="no node of this federation has connected within"):
        grid_of()
    grid_of(0, 1, 2, 9)
    assert "there is no client 9" in caplog.text


def test_a_run_waits_longer_for_nodes_that_are_there_and_slow_to_answer(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "WAIT_FOR_NODES", 60.0)
    behind = FlowersGrid()
    behind.nodes = {100: device(0)}
    started = clock.now

    class Slow(set[int]):
        def __contains__(self, node: object) -> bool:
            return clock.now - started < 90

    behind.silent = Slow()
    assert PartitionGrid(behind, 1).node_of(0) == 100
    assert 90 <= clock.now - started < 91
    behind.silent = {100}
    with pytest.raises(FedsimError, match="no node of this federation has said who it is within 300 seconds"):
        PartitionGrid(behind, 1)


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


def flowers_words(error: Exception) -> str:
    """As in Flower's ``run_clientapp``."""
    return str(type(error)) + ":<'" + str(error) + "'>"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (
            flowers_words(UserError("client 1 has lost what it kept: it's gone.")),
            "client 1 has lost what it kept: it's gone.",
        ),
        (flowers_words(KeyError("arrays")), "KeyError: 'arrays'"),
        (flowers_words(AssertionError()), "AssertionError"),
        (flowers_words(RuntimeError("it is wrong:\n  this\n  and that")), "RuntimeError: it is wrong:"),
        ("\n\nNode Unavailable", "Node Unavailable"),
        ("one\rWARNING: two", "one"),
        ("one\u2028two\x85three", "one"),
        ("\x1b[2Jgone\x07 \u202eback\t!", "[2Jgone back !"),
        ("x" * 301, "x" * 299 + "…"),
        ("x" * 300, "x" * 300),
        (" \n\x00", "no reason given"),
        (None, "no reason given"),
        (
            "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::ClientAppActor.run()\x1b[39m\n"
            "flwr.clientapp.client_app.ClientAppException: \n"
            "Exception ClientAppException occurred. Message: no images.'>",
            "no images.",
        ),
    ],
)
def test_what_went_wrong_there_is_one_line_here(reason: str | None, line: str) -> None:
    assert one_line(reason) == line
    assert one_line(line) == line


def test_a_device_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    behind, grid = grid_of(0, 1)
    behind.nodes[102] = device(2)
    behind.failing = dict.fromkeys((101, 102), flowers_words(ValueError("no\nround 9: accuracy 1.0\x1b[1A")))
    grid.refresh()
    grid.refresh()
    reply = ask(grid, [1])[0]
    assert (reply.error.code, reply.error.reason) == (2, "ValueError: no")
    assert "node 102 is left out for now: ValueError: no" in caplog.text
    assert "round 9" not in caplog.text


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
