"""A stand-in for Flower's own Grid, its SuperLink and SuperNodes, in this process; and time that passes at once."""

import itertools
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.devices.node import NodeConfig
from fedsim.deployment.partition_grid import PartitionGrid
from fedsim.messages.schema import ARRAYS, CONFIG, KEEPS, METRICS, QUERY_NODE, TRAIN, message

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
        self.arrays: dict[int, ArrayRecord] = {}
        """By node what it sends as arrays"""
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
        reply = RecordDict({METRICS: MetricRecord({"node": node}), CONFIG: ConfigRecord({KEEPS: keeps})})
        if node in self.arrays:
            reply[ARRAYS] = self.arrays[node]
        return reply

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


class Clock:
    """Seconds that pass at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def device(partition: int, **more: Any) -> dict[str, Any]:
    return {"partition-id": partition, **{key.replace("_", "-"): value for key, value in more.items()}}


def grid_of(
    *partitions: int, timeout: float | None = None, clients: int = 3, join_timeout: float | None = 0.3
) -> tuple[FlowersGrid, PartitionGrid]:
    behind = FlowersGrid()
    behind.nodes = {100 + partition: device(partition) for partition in partitions}
    return behind, PartitionGrid(behind, clients, timeout, join_timeout=join_timeout)


def ask(grid: PartitionGrid, clients: Iterable[int], type_: str = TRAIN) -> list[Message]:
    return list(grid.send_and_receive([message(type_, client, None) for client in clients]))


def node_that_answered(reply: Message) -> Any:
    return reply.content[METRICS]["node"]
