"""The base classes of the engines: Flower Grids whose node ids are partition ids."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

if TYPE_CHECKING:  # these need our package datasets, beside which a Flower app may have one of its own
    from datasets.federation import Federation
    from fedsim.config.settings import Settings
    from fedsim.methods.interfaces import LocalTrainer

SERVER_NODE = 0xFED
"""Source node id of the server's messages; any number serves, since replies return to the caller."""


class FederationGrid(Grid):
    """A ``Grid`` for one federation: it returns replies in the order of the messages, and can read client states."""

    def __init__(self) -> None:
        self._pushed: dict[str, Message] = {}
        self._pushed_count = 0

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies as they come, in the order of the messages.

        A client that raises answers with an error message.
        """

    @property
    def folds_evaluation(self) -> bool:
        """Whether clients evaluate a round's model when they receive it for the next training: one message, not two."""
        return False

    @property
    def adds_up(self) -> bool:
        """Whether replies are added up where they are made, if training messages ask for it (``ADD_UP``)."""
        return False

    @abstractmethod
    def client_states(self) -> dict[int, RecordDict] | None:
        """Return the client state of each client; ``None`` where the states stay on the clients' machines."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._pushed_count += 1
            ids.append(str(self._pushed_count))
            self._pushed[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Send what was pushed and return the replies."""
        return list(self.send_and_receive([self._pushed.pop(id_) for id_ in message_ids]))

    def peak_memory_mb(self) -> float:
        """Return the peak memory in MB of the processes that this engine started, added up; 0 if there are none."""
        return 0.0

    def memory_mb(self) -> float:
        """Return the resident memory in MB of these processes when they last answered, added up; 0 without any."""
        return 0.0

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


class WrappedGrid(FederationGrid):
    """A grid around another grid: every message and its reply pass through here."""

    def __init__(self, grid: FederationGrid) -> None:
        super().__init__()
        self._grid = grid

    def sent(self, message: Message) -> None:
        """Take notice of a message before it is sent; does nothing unless overridden."""

    @abstractmethod
    def passed(self, message: Message, reply: Message) -> Message:
        """Return the reply that the caller receives in place of ``reply``."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        for message in messages:
            self.sent(message)
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        for message, reply in zip(messages, replies, strict=True):
            yield self.passed(message, reply)

    def client_states(self) -> dict[int, RecordDict] | None:
        return self._grid.client_states()

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    @property
    def folds_evaluation(self) -> bool:
        return self._grid.folds_evaluation

    def peak_memory_mb(self) -> float:
        return self._grid.peak_memory_mb()

    def memory_mb(self) -> float:
        return self._grid.memory_mb()

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run


class LocalGrid(FederationGrid):
    """A ``Grid`` over ``num_nodes`` clients. It holds their ``Context``, so that a worker that dies loses no state.

    It has no timeout: on one machine a client ends, raises, or ends its worker, and each case results in a reply.

    Use it as a context manager; leaving the block ends what the engine started.
    """

    def __init__(self, num_nodes: int, run_config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": node, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=run_config or {},
            )
            for node in range(num_nodes)
        }
        # Flower's Message reads the sender from here; its runtime sets it before an app starts, and here nobody else
        # does.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        """Check that this engine can be started with the options of its configuration.

        Raises:
            UserError: If it cannot.
        """

    @classmethod
    def check_training(
        cls, settings: "Settings", trainer: "LocalTrainer", model: nn.Module, federation: "Federation"
    ) -> None:
        """Check that this engine can train such clients.

        Raises:
            UserError: If it cannot.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """End what the engine started; nothing, unless overridden."""

    def client_states(self) -> dict[int, RecordDict]:
        return {node: context.state for node, context in self.contexts.items()}

    def restore_client_states(self, states: dict[int, RecordDict]) -> None:
        for node, state in states.items():
            self.contexts[node].state = state

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def set_run(self, run: Any) -> None:
        """Do nothing: a local grid serves one run and needs no description of it."""

    @property
    def run(self) -> Any:
        raise RuntimeError("a local grid has no Flower run: there is no SuperLink behind it")
