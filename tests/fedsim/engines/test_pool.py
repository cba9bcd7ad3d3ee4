"""What is sent to whom, and what comes back, in drawn orders of answers and deaths, without processes."""

import random
from collections.abc import Iterable, Sequence

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedsim.engines.pace import Pace
from fedsim.engines.pool import ATTEMPTS, PoolGrid
from fedsim.engines.tasks import Batch, Died, PoolWorker
from fedsim.messages.groups import ADD_UP, group_of

SCHEDULES = 300


class DrawnPace(Pace):
    """Clients take what is drawn."""

    def __init__(self, drawn: random.Random) -> None:
        super().__init__()
        self.drawn = drawn

    def note(self, message: Message, seconds: float) -> None:
        super().note(message, self.drawn.choice([1e-4, 0.003, 0.02, 0.06, 0.3, 2]))


class DrawnGrid(PoolGrid[PoolWorker]):
    """Workers answer in a drawn order, and die; a client in ``kills`` always kills its worker."""

    def __init__(self, clients: int, workers: int, drawn: random.Random, deaths: float, kills: set[int]) -> None:
        super().__init__(clients, DrawnPace(drawn))
        self.drawn, self.deaths, self.kills = drawn, deaths, kills
        self.workers = [PoolWorker(number=number) for number in range(workers)]
        self.dropped = False
        """Whether workers may have what an earlier call has dropped."""

    def packed(self, content: RecordDict) -> RecordDict:
        return content

    def dispatch(self, worker: PoolWorker, batch: Batch, contexts: Sequence[Context]) -> None:
        places = [task.index for task in batch.tasks]
        assert places == list(range(places[0], places[-1] + 1))  # or there would be sums of other groups
        at_work = {task.client for each in self.workers for task in each.tasks() if not self.dropped}
        assert at_work.isdisjoint(task.client for task in batch.tasks)
        if batch.suspect:
            assert len(places) == 1
            assert not worker.batches
        assert not any(each.suspect for each in worker.batches)
        batch.handle = [calls(context.state) for context in contexts]

    def answered(self) -> Iterable[PoolWorker]:
        busy = [worker for worker in self.workers if worker.batches]
        assert busy, "it would wait for ever"
        return self.drawn.sample(busy, self.drawn.randint(1, len(busy)))

    def collect(self, worker: PoolWorker, batch: Batch) -> Sequence[tuple[Message, RecordDict]] | Died:
        if self.drawn.random() < self.deaths or any(task.client in self.kills for task in batch.tasks):
            self.workers[self.workers.index(worker)] = PoolWorker(number=worker.number)
            return Died("drawn")
        return [
            (Message(state_of(before + 1), reply_to=task.message), state_of(before + 1))
            for task, before in zip(batch.tasks, batch.handle, strict=True)
        ]


def state_of(count: int) -> RecordDict:
    return RecordDict({"calls": MetricRecord({"n": count})})


def calls(state: RecordDict) -> int:
    return int(state["calls"]["n"]) if "calls" in state else 0  # type: ignore[index, call-overload]


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_each_message_has_its_reply_in_order_and_each_client_its_state(seed: int) -> None:
    drawn = random.Random(seed)
    clients = drawn.choice([3, 10, 21, 40, 100])
    kills = {drawn.randrange(clients)} if drawn.random() < 0.4 else set()
    grid = DrawnGrid(clients, drawn.choice([1, 2, 3, 8]), drawn, drawn.choice([0, 0.02, 0.1]), kills)
    asked = drawn.choices(range(clients), k=clients) if drawn.random() < 0.3 else list(range(clients))
    content = RecordDict({"config": ConfigRecord({ADD_UP: "uniform"} if drawn.random() < 0.5 else {})})
    messages = [Message(content, client, "train", group_id=group_of(place)) for place, client in enumerate(asked)]
    if drawn.random() < 0.4:  # a call that is dropped, before or after what it has sent is answered
        dropped = iter(grid.send_and_receive(messages))
        for _ in range(drawn.randrange(clients)):
            next(dropped)
        grid.dropped = True
    expected = {client: calls(state) for client, state in grid.client_states().items()}

    replies = list(grid.send_and_receive(messages))

    assert [reply.metadata.src_node_id for reply in replies] == asked
    for client, reply in zip(asked, replies, strict=True):
        if reply.has_error():
            assert reply.error.reason == f"its worker died {ATTEMPTS} times (drawn)"
        else:
            expected[client] += 1
            assert calls(reply.content) == expected[client]
    assert {client: calls(state) for client, state in grid.client_states().items()} == expected
    if not grid.deaths:
        assert {reply.metadata.src_node_id for reply in replies if reply.has_error()} == kills & set(asked)


def test_messages_with_the_same_content_share_one_copy_of_it_also_where_others_are_between() -> None:
    class Counting(DrawnGrid):
        packs = 0

        def packed(self, content: RecordDict) -> RecordDict:
            self.packs += 1
            return super().packed(content)

    drawn = random.Random(0)
    contents = [RecordDict({"config": ConfigRecord({"number": number})}) for number in range(2)]
    grid = Counting(20, 2, drawn, 0.0, set())
    replies = list(grid.send_and_receive([Message(contents[client % 2], client, "train") for client in range(20)]))
    assert [reply.metadata.src_node_id for reply in replies] == list(range(20))
    assert grid.packs == 2
    own = [RecordDict({"config": ConfigRecord({"number": number})}) for number in range(20)]
    list(grid.send_and_receive([Message(content, client, "train") for client, content in enumerate(own)]))
    assert grid.packs == 22
