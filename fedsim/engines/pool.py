"""What engines with several workers have in common: any worker takes the next clients, an idle one first.

The clients' states live in the server's process and travel with the message, which balances clients of different size
and lets a client start over, with the same result, when its worker dies.
"""

import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from flwr.app import Context, Error, Message, RecordDict

from fedsim.engines.grid import LocalGrid
from fedsim.engines.pace import AT_WORKER, Pace
from fedsim.engines.tasks import Batch, Died, PoolWorker, Task
from fedsim.messages.errors import CLIENT_RAISED
from fedsim.messages.groups import ADD_UP, GROUP_SIZE, openings
from fedsim.messages.schema import config_of

ATTEMPTS = 3
"""How often a client is started before the death of its workers is attributed to the client."""


W = TypeVar("W", bound=PoolWorker)


class PoolGrid(LocalGrid, Generic[W]):
    """A grid whose clients run on the workers in ``self.workers``."""

    def __init__(self, num_nodes: int, pace: Pace) -> None:
        super().__init__(num_nodes)
        self.workers: list[W] = []
        self.pace = pace

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
    def collect(self, worker: W, batch: Batch) -> Sequence[tuple[Message, RecordDict]] | Died:
        """Return the reply and the new state of each client of a batch, or replace a worker that has died.

        The batch is the first of those that the worker had, and not among its batches any more.
        """

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        upcoming = self._tasks(messages)
        waiting: deque[Task] = deque()
        in_flight: set[Task] = set()
        replies: dict[int, Message] = {}
        yielded, sent = 0, 0
        while yielded < len(messages):
            for worker in self._by_batches():
                coming = messages[yielded], len(messages) - sent, len(self.workers)
                if len(worker.batches) >= self.pace.batches(*coming) or any(batch.suspect for batch in worker.batches):
                    continue
                at_once, within = self.pace.at_once(*coming), yielded + self.pace.ahead(coming[0], len(self.workers))
                busy = {task.client for task in in_flight}
                tasks = self._taken(at_once, within, waiting, upcoming, busy, early=bool(worker.batches))
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
            if in_flight and in_flight.isdisjoint(task for worker in self.workers for task in worker.tasks()):
                raise RuntimeError("another call, begun before this one was used up, has dropped its replies")
            for worker in self.answered():
                batch = worker.batches.popleft()
                answers, now = self.collect(worker, batch), time.monotonic()
                if isinstance(answers, Died):
                    lost = {task for task in (*batch.tasks, *worker.tasks()) if task in in_flight}
                    in_flight -= lost
                    for task in lost:
                        if task.attempts == ATTEMPTS:
                            words = f"its worker died {ATTEMPTS} times ({answers.cause}){answers.remedy}"
                            replies[task.index] = Message(Error(CLIENT_RAISED, words), reply_to=task.message)
                    again = [task for task in lost if task.attempts < ATTEMPTS]
                    sent -= len(again)
                    waiting = deque(sorted((*waiting, *again), key=lambda task: task.index))
                    continue
                begun, worker.answered = max(batch.sent, worker.answered), now
                if not in_flight.issuperset(batch.tasks):
                    continue  # the caller of these messages has stopped waiting
                in_flight.difference_update(batch.tasks)
                self.pace.note(batch.tasks[0].message, (now - begun) / len(batch.tasks))
                for task, (reply, state) in zip(batch.tasks, answers, strict=True):
                    replies[task.index], self.contexts[task.client].state = reply, state

    def _by_batches(self) -> Iterator[W]:
        """Yield the workers that have no batch, then those that have one, also if they have got it meanwhile."""
        for batches in range(AT_WORKER):
            yield from [worker for worker in self.workers if len(worker.batches) == batches]

    @staticmethod
    def _taken(
        at_once: int,
        within: int,
        waiting: deque[Task],
        upcoming: Iterator[Task],
        busy: set[int],
        *,
        early: bool = False,
    ) -> Sequence[Task]:
        """Take the next tasks for a worker: none with an index of ``within`` or more, and none of a busy client.

        All have the same content, and are successive messages to different clients. One that a worker had when it died
        is taken alone, and for a worker that has nothing else, so that it is known which client its worker dies of. A
        group whose replies are added up is taken whole, if it can.
        """
        taken: list[Task] = []
        while len(taken) < at_once:
            waiting.extend(islice(upcoming, 1) if not waiting else ())
            if not waiting or waiting[0].index >= within or waiting[0].client in busy:
                break
            if waiting[0].attempts and (taken or early):
                break
            if taken and waiting[0].content is not taken[0].content:
                break
            if waiting[0].adds_up and waiting[0].opens and at_once - len(taken) < GROUP_SIZE <= at_once:
                break
            taken.append(waiting.popleft())
            busy.add(taken[-1].client)
            if taken[0].attempts:
                break
        for task in taken:
            task.attempts += 1
        return taken

    def peak_memory_mb(self) -> float:
        return sum(worker.memory.peak for worker in self.workers)

    def memory_mb(self) -> float:
        return sum(worker.memory.resident for worker in self.workers)

    def _tasks(self, messages: Sequence[Message]) -> Iterator[Task]:
        """Yield a task for each message; messages with the same content share one packed copy of it."""
        to_come = Counter(id(message.content) for message in messages)
        packed: dict[int, Any] = {}  # by content, until its last message: some methods have one for each client
        for index, (message, opens) in enumerate(zip(messages, openings(messages), strict=True)):
            content = id(message.content)
            if content not in packed:
                packed[content] = self.packed(message.content)
            yield Task(index, message, packed[content], ADD_UP in config_of(message), opens)
            to_come[content] -= 1
            if not to_come[content]:
                del packed[content]
