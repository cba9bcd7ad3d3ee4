"""``flwr run``: a Grid over Flower's own runtime that speaks of partitions instead of nodes.

Flower's node ids are random, and there may be fewer SuperNodes than clients (Flower simulates two unless told
otherwise). Here a node hosts the partitions p with p mod nodes = its rank, so the same federation runs on any number
of nodes, and the replies come in the order of the messages, so the same seed gives the same numbers as the other
engines.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.engines.grid import FederationGrid
from fedsim.errors import FedsimError
from fedsim.messages import CONFIG, QUERY_STATE, config_of, message

PARTITION = "partition-id"
WAIT_FOR_NODES = 60.0
SETTLED = 3.0
"""Seconds without a new node after which the nodes are taken to be complete."""


class PartitionGrid(FederationGrid):
    """Wraps the ``Grid`` that Flower hands to a ServerApp; its node ids are partition ids, counted from zero."""

    def __init__(self, grid: Grid, num_partitions: int) -> None:
        self._grid = grid
        self._partitions = list(range(num_partitions))
        self._nodes = self._await_nodes()

    def node_of(self, partition: int) -> int:
        return self._nodes[partition % len(self._nodes)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of the messages; a node that does not answer is an error.

        A node gets one message at a time, since Flower would let two messages of one node overwrite each other's state.
        """
        queues: dict[int, deque[Message]] = {}
        ordered = list(messages)
        for each in ordered:
            queues.setdefault(self.node_of(each.metadata.dst_node_id), deque()).append(each)
        replies: dict[int, Message] = {}
        while any(queues.values()):
            wave = {node: queue.popleft() for node, queue in queues.items() if queue}
            addressed = [self._addressed(each) for each in wave.values()]
            for reply in self._grid.send_and_receive(addressed, timeout=timeout):
                original = wave[reply.metadata.src_node_id]
                # As if the partition itself had answered: the reply's source is what the original was addressed to.
                replies[id(original)] = (
                    Message(reply.error, reply_to=original)
                    if reply.has_error()
                    else Message(reply.content, reply_to=original)
                )
        for each in ordered:
            if id(each) not in replies:
                raise FedsimError(f"the node that hosts client {each.metadata.dst_node_id} has not answered")
            yield replies.pop(id(each))

    def client_states(self) -> dict[int, RecordDict]:
        """What each client keeps, asked of its node."""
        replies = self.send_and_receive([message(QUERY_STATE, partition, None) for partition in self._partitions])
        states = {}
        for reply in replies:
            if reply.has_error():
                raise FedsimError(f"client {reply.metadata.src_node_id} did not tell its state: {reply.error.reason}")
            states[reply.metadata.src_node_id] = reply.content
        return states

    def get_node_ids(self) -> Iterable[int]:
        return list(self._partitions)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages([self._addressed(each) for each in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def _addressed(self, each: Message) -> Message:
        """The message to the node, with the partition in its config."""
        partition = each.metadata.dst_node_id
        content = each.content.copy()
        config = config_of(each).copy()
        config[PARTITION] = partition
        content[CONFIG] = config
        return Message(content, self.node_of(partition), each.metadata.message_type)

    def _await_nodes(self) -> list[int]:
        """The nodes in ascending order, once there are as many as partitions or no more come."""
        start = changed = time.monotonic()
        nodes: list[int] = []
        while len(nodes) < len(self._partitions) and not (nodes and time.monotonic() - changed > SETTLED):
            now = sorted(self._grid.get_node_ids())
            if now != nodes:
                nodes, changed = now, time.monotonic()
            elif not nodes and time.monotonic() - start > WAIT_FOR_NODES:
                raise FedsimError(f"no SuperNode has connected within {WAIT_FOR_NODES:.0f} seconds")
            else:
                time.sleep(0.2)
        return nodes
