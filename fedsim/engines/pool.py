"""What engines with several workers have in common: any idle worker takes the next client.

The clients' states live in the server's process and travel with the message, which balances clients of different size
and lets a client start over, with the same result, when its worker dies.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from flwr.app import Context, Error, Message, RecordDict

from fedsim.core.memory import Memory
from fedsim.engines.client_call import CLIENT_RAISED
from fedsim.engines.grid import LocalGrid
from fedsim.messages.schema import ROUND, config_of

AHEAD = 2
"""Messages per worker that may be answered before an earlier one is; bounds the replies that wait in memory."""
ATTEMPTS = 3
"""How often a client is started before the death of its workers is attributed to the client."""


@dataclass(eq=False)
class Task:
    """A message on its way to its client."""

    index: int
    message: Message
    content: Any
    """The message's content as the engine sends it, one object for all messages that have the same"""
    attempts: int = 0

    @property
    def client(self) -> int:
        return self.message.metadata.dst_node_id

    def envelope(self) -> Message:
        """Return the message without its content, which is sent once for all clients that receive the same."""
        envelope = copy(self.message)
        envelope.content = RecordDict()
        return envelope

    def __str__(self) -> str:
        return f"client {self.client} in round {config_of(self.message).get(ROUND, '?')!s}"


@dataclass(eq=False, kw_only=True)
class PoolWorker:
    """A worker as the server's process sees it."""

    number: int
    task: Task | None = field(default=None, init=False)
    memory: Memory = field(default=Memory(), init=False)
    """That of its process when it last answered"""


@dataclass(frozen=True)
class Died:
    """The answer of a worker that died; another one stands in its place if there is a place."""

    cause: str
    remedy: str = ""
    """What helps, after a colon; empty if that is not known"""


W = TypeVar("W", bound=PoolWorker)


class PoolGrid(LocalGrid, Generic[W]):
    """A grid whose clients run on the workers in ``self.workers``."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__(num_nodes)
        self.workers: list[W] = []

    @abstractmethod
    def packed(self, content: RecordDict) -> Any:
        """Return the content of messages in the form in which ``dispatch`` sends it."""

    @abstractmethod
    def dispatch(self, worker: W, task: Task, context: Context) -> None:
        """Send a task to an idle worker; if the worker has died, ``collect`` says so."""

    @abstractmethod
    def answered(self) -> Iterable[W]:
        """Wait until a worker has answered, died, or joined, and return the busy ones that have answered or died.

        Raises:
            FedsimError: If there is no worker and none can be had.
        """

    @abstractmethod
    def collect(self, worker: W, task: Task) -> tuple[Message, RecordDict] | Died:
        """Return the reply and the client's new state, or replace a worker that has died."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        upcoming = self._tasks(messages)
        waiting: deque[Task] = deque()
        in_flight: set[Task] = set()
        replies: dict[int, Message] = {}
        yielded = 0
        while True:
            waiting.extend(islice(upcoming, 1) if not waiting else ())
            for worker in [worker for worker in self.workers if worker.task is None]:
                if not waiting or waiting[0].index >= yielded + AHEAD * len(self.workers):
                    break
                if any(other.client == waiting[0].client for other in in_flight):
                    break  # the client's own earlier message comes first
                task = waiting.popleft()
                in_flight.add(task)
                task.attempts += 1
                worker.task = task
                self.dispatch(worker, task, self.contexts[task.client])
                waiting.extend(islice(upcoming, 1) if not waiting else ())
            if yielded in replies:
                yielded += 1
                yield replies.pop(yielded - 1)
                continue
            if not (waiting or in_flight):
                return
            for worker in self.answered():
                assert worker.task is not None
                done, answer = worker.task, self.collect(worker, worker.task)
                worker.task = None
                if done not in in_flight:
                    continue  # the caller of that message has stopped waiting
                in_flight.remove(done)
                if not isinstance(answer, Died):
                    replies[done.index], self.contexts[done.client].state = answer
                elif done.attempts < ATTEMPTS:
                    waiting.appendleft(done)
                else:
                    error = Error(CLIENT_RAISED, f"its worker died {ATTEMPTS} times ({answer.cause}){answer.remedy}")
                    replies[done.index] = Message(error, reply_to=done.message)

    def peak_memory_mb(self) -> float:
        return sum(worker.memory.peak for worker in self.workers)

    def memory_mb(self) -> float:
        return sum(worker.memory.resident for worker in self.workers)

    def _tasks(self, messages: Iterable[Message]) -> Iterator[Task]:
        """Yield a task for each message; successive messages with the same content share one packed copy of it."""
        content: RecordDict | None = None
        for index, message in enumerate(messages):
            if message.content is not content:
                content = message.content
                packed = self.packed(content)
            yield Task(index, message, packed)
