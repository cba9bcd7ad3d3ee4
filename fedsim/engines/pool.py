"""What engines with several workers have in common: any idle worker takes the next client.

The clients' states live in the server's process and travel with the message, which balances clients of different size
and lets a client start over, with the same result, when its worker dies. Clients that take little time are sent several
at once, since each message between processes takes some, too.
"""

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any, Generic, TypeVar

from flwr.app import Context, Error, Message, RecordDict

from fedsim.core.memory import Memory
from fedsim.engines.client_call import CLIENT_RAISED, Call
from fedsim.engines.grid import LocalGrid
from fedsim.messages.groups import ADD_UP, GROUP_SIZE, openings
from fedsim.messages.schema import ROUND, config_of

AHEAD = 2
"""Times a worker may be sent clients before an earlier one's are answered; bounds the replies that wait in memory."""
WORTH_SENDING = 0.1
"""Seconds of work for which it is worth sending a message: so many clients are sent at once, but not more than ..."""
MOST_AT_ONCE = 32
WORTH_ADDING_UP = 0.2
"""Seconds of work for which a whole group of clients is sent at once if their replies can be added up"""
ATTEMPTS = 3
"""How often a client is started before the death of its workers is attributed to the client."""


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


def in_words(tasks: Sequence[Task]) -> str:
    """Return which clients are computed: ``client 3 in round 2``, ``clients 3, 4 in round 2``."""
    clients = ", ".join(str(task.client) for task in tasks)
    return f"client{'s' * (len(tasks) > 1)} {clients} in round {config_of(tasks[0].message).get(ROUND, '?')!s}"


@dataclass(eq=False, kw_only=True)
class PoolWorker:
    """A worker as the server's process sees it."""

    number: int
    tasks: Sequence[Task] = field(default=(), init=False)
    """What it is computing, one after the other, and since when"""
    since: float = field(default=0.0, init=False)
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
        self._seconds: dict[str, float] = {}
        """What a client takes, by type of message"""

    @abstractmethod
    def packed(self, content: RecordDict) -> Any:
        """Return the content of messages in the form in which ``dispatch`` sends it."""

    @abstractmethod
    def dispatch(self, worker: W, tasks: Sequence[Task], contexts: Sequence[Context]) -> None:
        """Send tasks with the same content to an idle worker; if the worker has died, ``collect`` says so."""

    @abstractmethod
    def answered(self) -> Iterable[W]:
        """Wait until a worker has answered, died, or joined, and return the busy ones that have answered or died.

        Raises:
            FedsimError: If there is no worker and none can be had.
        """

    @abstractmethod
    def collect(self, worker: W) -> Sequence[tuple[Message, RecordDict]] | Died:
        """Return the reply and the client's new state for each of its tasks, or replace a worker that has died."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        upcoming = self._tasks(messages)
        waiting: deque[Task] = deque()
        in_flight: set[Task] = set()
        replies: dict[int, Message] = {}
        yielded, sent = 0, 0
        while yielded < len(messages):
            for worker in [worker for worker in self.workers if not worker.tasks]:
                at_once = self._at_once(messages[yielded], len(messages) - sent)
                within = yielded + AHEAD * len(self.workers) * at_once
                worker.tasks = self._taken(at_once, within, waiting, upcoming, {task.client for task in in_flight})
                if not worker.tasks:
                    break
                in_flight.update(worker.tasks)
                sent += len(worker.tasks)
                worker.since = time.monotonic()
                self.dispatch(worker, worker.tasks, [self.contexts[task.client] for task in worker.tasks])
            if yielded in replies:
                yielded += 1
                yield replies.pop(yielded - 1)
                continue
            if in_flight and in_flight.isdisjoint(task for worker in self.workers for task in worker.tasks):
                raise RuntimeError("another call, begun before this one was used up, has dropped its replies")
            for worker in self.answered():
                tasks, answers = worker.tasks, self.collect(worker)
                worker.tasks = ()
                if not in_flight.issuperset(tasks):
                    continue  # the caller of these messages has stopped waiting
                in_flight.difference_update(tasks)
                if isinstance(answers, Died):
                    sent -= len(tasks)
                    for task in reversed(tasks):
                        if task.attempts < ATTEMPTS:
                            waiting.appendleft(task)
                        else:
                            words = f"its worker died {ATTEMPTS} times ({answers.cause}){answers.remedy}"
                            replies[task.index] = Message(Error(CLIENT_RAISED, words), reply_to=task.message)
                    continue
                seconds = time.monotonic() - worker.since
                self._note(tasks[0].message.metadata.message_type, seconds / len(tasks))
                for task, (reply, state) in zip(tasks, answers, strict=True):
                    replies[task.index], self.contexts[task.client].state = reply, state

    def _at_once(self, message: Message, left: int) -> int:
        """Return how many clients to send a worker at once: fewer at the end, so that all workers end together."""
        each = self._seconds.get(message.metadata.message_type, inf)
        worth_it = min(MOST_AT_ONCE, int(WORTH_SENDING / each))
        if ADD_UP in config_of(message) and each * GROUP_SIZE <= WORTH_ADDING_UP:
            worth_it = max(worth_it, GROUP_SIZE)
        return max(1, min(worth_it, left // (2 * len(self.workers))))

    def _note(self, message_type: str, each: float) -> None:
        """Note what clients take: slow ones at once, so that few of them are sent together; fast ones by halves."""
        self._seconds[message_type] = max(each, (each + self._seconds.get(message_type, each)) / 2, 1e-6)

    @staticmethod
    def _taken(
        at_once: int, within: int, waiting: deque[Task], upcoming: Iterator[Task], busy: set[int]
    ) -> Sequence[Task]:
        """Take the next tasks for a worker: none with an index of ``within`` or more, and none of a busy client.

        All have the same content, and are messages to different clients. One whose worker has died is taken alone, so
        that it is known which client its worker dies of. A group whose replies are added up is taken whole, if it can.
        """
        taken: list[Task] = []
        while len(taken) < at_once:
            waiting.extend(islice(upcoming, 1) if not waiting else ())
            if not waiting or waiting[0].index >= within or waiting[0].client in busy:
                break
            if taken and (waiting[0].content is not taken[0].content or waiting[0].attempts or taken[0].attempts):
                break
            if waiting[0].adds_up and waiting[0].opens and 0 < at_once - len(taken) < GROUP_SIZE <= at_once:
                break
            taken.append(waiting.popleft())
            busy.add(taken[-1].client)
        for task in taken:
            task.attempts += 1
        return taken

    def peak_memory_mb(self) -> float:
        return sum(worker.memory.peak for worker in self.workers)

    def memory_mb(self) -> float:
        return sum(worker.memory.resident for worker in self.workers)

    def _tasks(self, messages: Sequence[Message]) -> Iterator[Task]:
        """Yield a task for each message; successive messages with the same content share one packed copy of it."""
        content: RecordDict | None = None
        for index, (message, opens) in enumerate(zip(messages, openings(messages), strict=True)):
            if message.content is not content:
                content = message.content
                packed, adds_up = self.packed(content), ADD_UP in config_of(message)
            yield Task(index, message, packed, adds_up, opens)
