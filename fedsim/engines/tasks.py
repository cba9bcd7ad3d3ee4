"""What engines with several workers hand to them, and what they know of each worker."""

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedsim.core.memory import Memory
from fedsim.engines.client_call import Call
from fedsim.messages.schema import ROUND, config_of


@dataclass(eq=False)
class Task:
    """A message on its way to its client."""

    index: int
    message: Message
    content: Any
    """The message's content as the engine sends it, one object for all messages that have the same"""
    adds_up: bool
    """Whether its reply may be added up with others of its group"""
    opens: bool
    """Whether it is the first of its group"""
    attempts: int = 0
    """How often a worker was sent it"""

    @property
    def client(self) -> int:
        return self.message.metadata.dst_node_id

    def call(self, context: Context) -> Call:
        """Return what its worker is sent, without the content, which is sent once for all that receive the same."""
        envelope = copy(self.message)
        envelope.content = RecordDict()
        return Call(envelope, context, self.opens)


@dataclass(eq=False)
class Batch:
    """Tasks with the same content that a worker is sent at once, and computes one after the other."""

    tasks: Sequence[Task]
    sent: float
    """When, by the monotonic clock"""
    handle: Any = None
    """What the engine knows it by"""

    @property
    def suspect(self) -> bool:
        """Whether a worker has died that had these tasks before."""
        return any(task.attempts > 1 for task in self.tasks)

    def in_words(self) -> str:
        """Return which clients are computed: ``client 3 in round 2``, ``clients 3, 4 in round 2``."""
        clients = ", ".join(str(task.client) for task in self.tasks)
        round = config_of(self.tasks[0].message).get(ROUND, "?")
        return f"client{'s' * (len(self.tasks) > 1)} {clients} in round {round!s}"


@dataclass(eq=False, kw_only=True)
class PoolWorker:
    """A worker as the server's process sees it."""

    number: int
    batches: deque[Batch] = field(default_factory=deque, init=False)
    """The one that it computes, and those that it has early"""
    answered: float = field(default=0.0, init=False)
    """When it last answered, by the monotonic clock"""
    memory: Memory = field(default=Memory(), init=False)
    """That of its process at the end of what it last answered"""

    def tasks(self) -> Iterator[Task]:
        return (task for batch in self.batches for task in batch.tasks)


@dataclass(frozen=True)
class Died:
    """The answer of a worker that died; another one stands in its place if there is a place."""

    cause: str
    remedy: str = ""
    """What helps, after a colon; empty if that is not known"""
