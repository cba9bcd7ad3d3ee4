"""``flwr run``: a Grid over Flower's own runtime that is addressed by partitions instead of nodes.

Flower's node ids are random, and there may be fewer SuperNodes than clients (Flower simulates two by default). So every
node is asked which partitions it hosts (``query.node``): a real device hosts the one of its
``partition-id``, a simulated node the p with p mod ``num-partitions`` = ``partition-id``. Replies come in the order of
the messages, and the same seed gives the same numbers as the other engines.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedsim.core.errors import FedsimError
from fedsim.deployment.delivery import Delivery
from fedsim.deployment.devices.node import NodeProfile
from fedsim.deployment.joining import await_nodes
from fedsim.deployment.node_registry import NodeRegistry
from fedsim.deployment.reply_limit import LimitedReplies
from fedsim.engines.client_call import call_client
from fedsim.engines.grid import FederationGrid
from fedsim.messages.packing import Packer
from fedsim.messages.schema import (
    CONFIG,
    EVALUATE_GLOBAL,
    KEEPS,
    PACKED_REPLY,
    QUERY_STATE,
    bytes_of,
    config_of,
    message,
)

log = logging.getLogger(__name__)

PARTITION = "partition-id"


class PartitionGrid(FederationGrid):
    """Wraps the ``Grid`` that Flower passes to a ServerApp; its node ids are partition ids, counted from zero.

    The constructor waits for the nodes. Later, nodes may join and leave: each message goes to the node that hosts its
    client at that moment.

    Args:
        grid: Flower's grid.
        num_partitions: How many clients there are; ``None`` if the devices that are online are the clients.
        timeout: Seconds after which a message is answered with an error: where the client's node does not answer, or
            there is none.
        server_app: Makes the app that evaluates the global model in this process where the nodes are real devices.
        join_timeout: Seconds to wait for the nodes of all clients; ``None`` for no limit.

    Raises:
        FedsimError: If no node joins; without ``num_partitions`` also if the numbers of the devices have a gap.
    """

    def __init__(
        self,
        grid: Grid,
        num_partitions: int | None,
        timeout: float | None = None,
        server_app: Callable[[], ClientApp] | None = None,
        join_timeout: float | None = None,
    ) -> None:
        super().__init__()
        self._grid = grid
        self._replies = LimitedReplies(grid)
        self._timeout = timeout
        self._make_server_app = server_app
        self._server_app: ClientApp | None = None
        self._roll = NodeRegistry(
            grid, self._replies, None if num_partitions is None else range(num_partitions), join_timeout
        )
        self._keeping: set[int] = set()
        await_nodes(self._roll, join_timeout)
        self._partitions = self._roll.partitions

    def node_of(self, partition: int) -> int | None:
        """Return the node that hosts the client; ``None`` if there is none."""
        return self._roll.node_of(partition)

    def given_up(self, partition: int) -> str | None:
        """Return why no node of this client is waited for any longer; ``None`` while one is."""
        return self._roll.given_up(partition)

    def refresh(self) -> None:
        self._roll.refresh()

    @property
    def nodes(self) -> dict[int, NodeProfile]:
        """The profile of the node of each partition, for the partitions that have a node."""
        return self._roll.nodes

    @property
    def strangers(self) -> list[str]:
        """Phrases about the nodes that are online and have not reported which client they host."""
        return self._roll.strangers

    @property
    def simulated(self) -> bool:
        """Whether all nodes are of Flower's simulation."""
        return self._roll.simulated

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies in the order of the messages.

        A node receives one message at a time: in Flower, two messages to one node would overwrite each other's state.
        A message that a node had not answered when it left is sent again when it is back.
        """
        ordered = list(messages)
        timeout = self._timeout if timeout is None else timeout
        exchange = Delivery(self, ordered, timeout)
        for each in ordered:
            while (reply := exchange.reply_to(each)) is None:
                exchange.step()
            yield reply

    def client_states(self) -> dict[int, RecordDict] | None:
        """Query the client states from the nodes; return ``None`` if a device does not share its own, or is silent.

        Raises:
            FedsimError: If a simulated node does not answer, since it is no machine that may be away.
        """
        self.refresh()
        if not self.answers_measuring:
            return None
        states, silent = {}, []
        for reply in self.send_and_receive([message(QUERY_STATE, partition, None) for partition in self._partitions]):
            client = reply.metadata.src_node_id
            if not reply.has_error():
                states[client] = reply.content
                continue
            fault = f"client {client} did not tell its state: {reply.error.reason}"
            if self.simulated:
                raise FedsimError(fault)
            silent.append(fault)
        if silent:
            log.warning("there is no global model for now: %s", "; ".join(silent))
        return None if silent else states

    @property
    def answers_measuring(self) -> bool:
        """Whether the node of every client answers queries that serve measurement only."""
        nodes = self.nodes
        return len(nodes) == len(self._partitions) and all(n.simulated or n.shares_personal for n in nodes.values())

    @property
    def folds_evaluation(self) -> bool:
        """Whether evaluation is folded into training messages: on real devices, where each message costs seconds."""
        return not self.simulated

    def get_node_ids(self) -> Iterable[int]:
        return list(self._partitions)

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def push(self, messages: Iterable[Message]) -> list[str | None]:
        """Send each message to the node that hosts its client; return the ids of the messages, in the same order."""
        pack = Packer()
        addressed = [self._addressed(each, pack) for each in messages]
        self._replies.sent(max(map(bytes_of, addressed), default=0))
        return list(self._grid.push_messages(addressed))

    def pull(self, ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies that have arrived to the messages of these ids; an error for one that is too large."""
        return self._replies.pull(ids)

    def note(self, client: int, reply: Message) -> None:
        """Record whether the client has a client state, so that later messages let it notice that it has lost it."""
        config = reply.content.get(CONFIG)
        if not isinstance(config, ConfigRecord) or KEEPS not in config:
            return
        if config[KEEPS]:
            self._keeping.add(client)
        else:
            self._keeping.discard(client)

    def _addressed(self, each: Message, pack: Packer) -> Message:
        """Return the message to the node; its config has the partition and whether that should have a client state."""
        partition = each.metadata.dst_node_id
        node = self.node_of(partition)
        assert node is not None
        content = pack(each.content)
        config = config_of(each).copy()
        config[PARTITION] = partition
        config[KEEPS] = partition in self._keeping
        config[PACKED_REPLY] = True
        content[CONFIG] = config
        return Message(content, node, each.metadata.message_type)

    def evaluated_here(self, each: Message) -> Message | None:
        """Return this process's own reply to an evaluation of the global model, which needs no device.

        ``None`` for other messages, in Flower's simulation, and without ``server_app``.
        """
        if each.metadata.message_type != EVALUATE_GLOBAL or self.simulated or self._make_server_app is None:
            return None
        if self._server_app is None:
            self._server_app = self._make_server_app()
        context = Context(
            run_id=0, node_id=0, node_config={PARTITION: each.metadata.dst_node_id}, state=RecordDict(), run_config={}
        )
        return call_client(self._server_app, each, context)[0]
