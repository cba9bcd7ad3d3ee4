"""What engines with several workers have in common: any idle worker takes the next client.

The clients' states live in the server's process and travel with the message, which balances clients of different size
and lets a client start over, with the same result, when its worker dies. Clients that take little time are sent several
at once, since each message between processes takes some, too, and the next ones before these are answered, so that the
worker need not wait for them.
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
"""Times a worker may be sent clients before an earlier one's are answered, and once more if it has the next ones early;
bounds the replies that wait in memory."""
AT_WORKER = 2
"""Batches that a worker has at most: the one that it computes, and the next one"""
WORTH_SENDING = 0.1
"""Seconds of work for which it is worth sending a message: so many clients are sent at once, but not more than ..."""
MOST_AT_ONCE = 32
WORTH_ADDING_UP = 0.2
"""Seconds of work for which a whole group of clients is sent at once if their replies can be added up"""
QUICK = 0.2
"""Seconds: where a batch takes no longer, workers have the next one early. Of slow clients each goes to who is idle."""
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


@dataclass(eq=False)
class Batch:
    """Tasks with the same content that a worker is sent at once, and computes one after the other."""

    tasks: Sequence[Task]
    sent: float
    """When, by the monotonic clock"""
    handle: Any = None
    """What the engine knows it by"""


@dataclass(eq=False, kw_only=True)
class PoolWorker:
    """A worker as the server's process sees it."""

    number: int
    batches: deque[Batch] = field(default_factory=deque, init=False)
    """The one that it computes, and those that it has early"""
    answered: float = field(default=0.0, init=False)
    """When it last answered, by the monotonic clock"""
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

    @property
    def queues(self) -> bool:
        """Whether a worker that computes a batch can be sent another one."""
        return True

    @abstractmethod
    def packed(self, content: RecordDict) -> Any:
        """Return the content of messages in the form in which ``dispatch`` sends it."""

    @abstractmethod
    def dispatch(self, worker: W, batch: Batch, contexts: Sequence[Context]) -> None:
        """Send a batch to a worker, which may have others; if the worker has died, ``collect`` says so."""

    @abstractmethod
    def answered(self) -> Iterable[W]:
        """Wait until a worker has answered, died, or joined, and return the busy ones that have answered or died.

        Raises:
            FedsimError: If there is no worker and none can be had.
        """

    @abstractmethod
    def collect(self, worker: W) -> Sequence[tuple[Message, RecordDict]] | Died:
        """Return the reply and the new state of each client of its first batch, or replace a worker that has died."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        upcoming = self._tasks(messages)
        waiting: deque[Task] = deque()
        in_flight: set[Task] = set()
        replies: dict[int, Message] = {}
        yielded, sent = 0, 0
        while yielded < len(messages):
            for worker in self._by_batches():
                message, left = messages[yielded], len(messages) - sent
                if len(worker.batches) >= self._batches_each(message, left):
                    continue
                at_once, within = self._at_once(message, left), yielded + self._ahead(message)
                tasks = self._taken(at_once, within, waiting, upcoming, {task.client for task in in_flight})
                if not tasks:
                    break
                in_flight.update(tasks)
                sent += len(tasks)
                batch = Batch(tasks, time.monotonic())
                self.dispatch(worker, batch, [self.contexts[task.client] for task in tasks])
                worker.batches.append(batch)
            if yielded in replies:
                yielded += 1
                yield replies.pop(yielded - 1)
                continue
            if in_flight and in_flight.isdisjoint(task for worker in self.workers for task in _tasks_of(worker)):
                raise RuntimeError("another call, begun before this one was used up, has dropped its replies")
            for worker in self.answered():
                answers = self.collect(worker)
                if isinstance(answers, Died):
                    lost = [task for task in _lost(worker) if task in in_flight]
                    in_flight.difference_update(lost)
                    sent -= len(lost)
                    for task in reversed(lost):
                        if task.attempts < ATTEMPTS:
                            waiting.appendleft(task)
                        else:
                            words = f"its worker died {ATTEMPTS} times ({answers.cause}){answers.remedy}"
                            replies[task.index] = Message(Error(CLIENT_RAISED, words), reply_to=task.message)
                    continue
                batch, now = worker.batches.popleft(), time.monotonic()
                begun, worker.answered = max(batch.sent, worker.answered), now
                if not in_flight.issuperset(batch.tasks):
                    continue  # the caller of these messages has stopped waiting
                in_flight.difference_update(batch.tasks)
                self._note(batch.tasks[0].message.metadata.message_type, (now - begun) / len(batch.tasks))
                for task, (reply, state) in zip(batch.tasks, answers, strict=True):
                    replies[task.index], self.contexts[task.client].state = reply, state

    def _by_batches(self) -> Iterator[W]:
        """Yield the workers that have no batch, then those that have one, also if they have got it meanwhile."""
        for batches in range(AT_WORKER):
            yield from [worker for worker in self.workers if len(worker.batches) == batches]

    def _batches_each(self, message: Message, left: int) -> int:
        """Return how many batches a worker may have: only one at the end, so that all workers end together."""
        return AT_WORKER if left > len(self.workers) and self._is_quick(message) else 1

    def _ahead(self, message: Message) -> int:
        """Return how many clients may be computed, or have been, beyond the first that has no reply yet."""
        return (AHEAD + self._is_quick(message)) * len(self.workers) * self._worth_it(message)

    def _is_quick(self, message: Message) -> bool:
        each = self._seconds.get(message.metadata.message_type, inf)
        return self.queues and each * self._worth_it(message) <= QUICK

    def _at_once(self, message: Message, left: int) -> int:
        """Return how many clients to send a worker at once: fewer at the end, so that all workers end together."""
        return max(1, min(self._worth_it(message), left // (2 * len(self.workers))))

    def _worth_it(self, message: Message) -> int:
        """Return how many clients it is worth sending a worker at once."""
        each = self._seconds.get(message.metadata.message_type, inf)
        worth_it = min(MOST_AT_ONCE, int(WORTH_SENDING / each))
        if ADD_UP in config_of(message) and each * GROUP_SIZE <= WORTH_ADDING_UP:
            worth_it = max(worth_it, GROUP_SIZE)
        return max(1, worth_it)

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


def _tasks_of(worker: PoolWorker) -> Iterator[Task]:
    return (task for batch in worker.batches for task in batch.tasks)


def _lost(worker: PoolWorker) -> Iterator[Task]:
    """Yield the tasks of a worker that has died, of which those that it had early are not an attempt."""
    for place, batch in enumerate(worker.batches):
        for task in batch.tasks:
            task.attempts -= place > 0
            yield task
