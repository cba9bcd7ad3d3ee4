"""The pool of workers: order, state, deaths, and what it leaves behind."""

import errno
import multiprocessing.util
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import arbitrary_address
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedsim.core.errors import FedsimError, UserError
from fedsim.core.threads import one_thread
from fedsim.engines import fork_server
from fedsim.engines.inline import InlineGrid
from fedsim.engines.pace import AT_WORKER, MOST_AT_ONCE, QUICK, WORTH_SENDING, Pace
from fedsim.engines.pool import ATTEMPTS
from fedsim.engines.process import ProcessGrid, ProcessWorker, name_of_signal, worker_count
from fedsim.engines.shared_memory import Channel, Packed
from fedsim.engines.tasks import Batch, Task
from fedsim.engines.worker import serve
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.groups import ADD_UP, group_of
from fedsim.messages.schema import arrays_of, metrics_of
from tests.apps import broken_app, changing_app, counting_app, dying_app, first_breaks_app

CPU = [torch.device("cpu")]


@pytest.fixture
def grid() -> Iterator[ProcessGrid]:
    with ProcessGrid(counting_app, 7, CPU, workers=2) as grid:
        yield grid


def messages(config: dict[str, object] | None = None, clients: int = 7) -> list[Message]:
    arrays = to_record({"w": torch.arange(1000.0), "n": torch.tensor(1)})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 4, **(config or {})})})
    return [Message(content, client, "train") for client in range(clients)]


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process_id}/stat").read_text().split(")")[1][:3]


def test_replies_come_in_the_order_of_the_messages_from_both_workers(grid: ProcessGrid) -> None:
    replies = list(grid.send_and_receive(reversed(messages())))
    assert [metrics_of(reply)["client"] for reply in replies] == [6, 5, 4, 3, 2, 1, 0]
    for reply in replies:
        client = int(str(metrics_of(reply)["client"]))
        assert torch.equal(to_tensors(arrays_of(reply))["w"], torch.arange(1000.0) + client)
    assert {metrics_of(reply)["pid"] for reply in replies} == set(grid.worker_process_ids())


def test_a_client_keeps_its_state_whichever_worker_it_meets(grid: ProcessGrid) -> None:
    for call in (1, 2, 3):
        replies = list(grid.send_and_receive(messages()[call - 1 :]))
        assert [metrics_of(reply)["calls"] for reply in replies] == [min(call, c + 1) for c in range(7)][call - 1 :]
    states = grid.client_states()
    assert isinstance(states[5]["last"], ArrayRecord)
    assert torch.equal(to_tensors(states[5]["last"])["w"], torch.arange(1000.0) + 5)


def test_messages_of_one_client_are_answered_one_after_the_other(grid: ProcessGrid) -> None:
    replies = list(grid.send_and_receive([messages()[3]] * 5))
    assert [metrics_of(reply)["calls"] for reply in replies] == [1, 2, 3, 4, 5]


def test_replies_that_a_later_call_has_dropped_are_not_waited_for(grid: ProcessGrid) -> None:
    first = iter(grid.send_and_receive(messages()))
    next(first)
    assert len(list(grid.send_and_receive(messages()))) == 7
    with pytest.raises(RuntimeError, match="begun before this one was used up"):
        list(first)


def test_a_client_that_raises_answers_with_an_error_and_keeps_its_state(grid: ProcessGrid) -> None:
    list(grid.send_and_receive(messages()))
    replies = list(grid.send_and_receive(messages({"raise": 2})))
    assert [reply.has_error() for reply in replies] == [False, False, True, False, False, False, False]
    assert replies[2].metadata.src_node_id == 2
    reason = replies[2].error.reason
    assert reason is not None
    assert reason.startswith("ValueError: client 2 was told to raise\nTraceback")
    assert grid.client_states()[2]["calls"] == {"n": 1}


def test_a_killed_worker_is_named_and_replaced_and_its_client_starts_over(
    grid: ProcessGrid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = grid.worker_process_ids()
    replies = list(grid.send_and_receive(messages({"kill_once": str(tmp_path)})))
    assert [metrics_of(reply)["client"] for reply in replies] == list(range(7))
    assert [metrics_of(reply)["calls"] for reply in replies] == [1] * 7
    assert "died (signal SIGKILL) while it computed client 3 in round 4; it is replaced" in caplog.text
    assert caplog.text.count("it is replaced") == 7
    assert not set(before) & set(grid.worker_process_ids())


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_what_a_client_changes_of_its_message_is_no_other_clients(engine: str) -> None:
    inline = InlineGrid(changing_app, 7, CPU)
    with inline if engine == "inline" else ProcessGrid(changing_app, 7, CPU, workers=2) as grid:
        for _ in range(2):
            sent = messages({"lr": 0.5})
            told = [metrics_of(reply) for reply in grid.send_and_receive(sent)]
            assert [dict(each) for each in told] == [{"lr": 0.5, "records": 2}] * 7
            assert sent[0].content["config"]["lr"] == 0.5  # type: ignore[index]


def test_a_message_for_which_there_is_no_file_is_a_sentence(grid: ProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    list(grid.send_and_receive(messages()))

    def none_left(name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", none_left)
    for context in grid.contexts.values():
        context.state["large"] = to_record({"w": torch.zeros(10**6)})
    packed = grid.packed(RecordDict())
    monkeypatch.setattr(grid, "packed", lambda content: packed)
    with pytest.raises(FedsimError, match=r"^client \d.* in round 4 cannot be sent to a worker: Too many open files$"):
        list(grid.send_and_receive(messages()))


def test_an_idle_worker_that_was_killed_is_replaced(grid: ProcessGrid) -> None:
    os.kill(grid.worker_process_ids()[0], signal.SIGKILL)
    replies = list(grid.send_and_receive(messages()))
    assert [metrics_of(reply)["client"] for reply in replies] == list(range(7))


def test_a_client_that_always_kills_its_worker_fails_alone(grid: ProcessGrid) -> None:
    replies = list(grid.send_and_receive(messages({"kill": 1})))
    assert [reply.has_error() for reply in replies] == [False, True, False, False, False, False, False]
    assert replies[1].error.reason == f"its worker died {ATTEMPTS} times (signal SIGKILL)"


class Paced(Pace):
    """Clients take as long as a test says."""

    def __init__(self, seconds: float, *, early: bool = True) -> None:
        super().__init__(early=early)
        super().note(messages()[0], seconds)

    def note(self, message: Message, seconds: float) -> None:
        """Leave it at that."""


class Watched(ProcessGrid):
    """Knows how many clients each message had."""

    def __init__(self, clients: int) -> None:
        self.together: list[int] = []
        super().__init__(counting_app, clients, CPU, workers=2)

    def dispatch(self, worker: ProcessWorker, batch: Batch, contexts: Sequence[Context]) -> None:
        self.together.append(len(batch.tasks))
        super().dispatch(worker, batch, contexts)


def test_quick_clients_are_sent_several_at_once() -> None:
    with Watched(60) as grid:
        grid.pace = Paced(WORTH_SENDING / 5)
        replies = list(grid.send_and_receive(messages(clients=60)))
        assert [metrics_of(reply)["client"] for reply in replies] == list(range(60))
        assert [metrics_of(reply)["calls"] for reply in replies] == [1] * 60
        for client, reply in enumerate(replies):
            assert torch.equal(to_tensors(arrays_of(reply))["w"], torch.arange(1000.0) + client)
        assert grid.together[0] == 5
        assert sum(grid.together) == 60
        assert max(grid.together) <= MOST_AT_ONCE
        assert grid.together[-1] == 1  # so that no worker waits for the other


def adding_up(clients: int) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({ADD_UP: "uniform"})})
    return [Message(content, client, "train", group_id=group_of(client)) for client in range(clients)]


def test_quick_clients_are_there_before_the_worker_has_answered() -> None:
    class Counting(Watched):
        most = 0

        def answered(self) -> Iterable[ProcessWorker]:
            self.most = max(self.most, *(len(worker.batches) for worker in self.workers))
            return super().answered()

    for each, most in ((QUICK / 40, AT_WORKER), (QUICK * 2, 1)):
        with Counting(60) as grid:
            grid.pace = Paced(each)
            replies = list(grid.send_and_receive(messages(clients=60)))
            assert [metrics_of(reply)["client"] for reply in replies] == list(range(60))
            assert grid.most == most, each
        with Counting(60) as grid:
            grid.pace = Paced(each)
            list(grid.send_and_receive(messages(clients=2)))
            assert grid.most == 1  # as many as there are workers: each goes to who is idle


def test_what_is_taken_ends_with_a_group() -> None:
    with Watched(30) as grid:
        upcoming, waiting = grid._tasks(adding_up(30)), deque[Task]()
        taken = [len(grid._taken(at_once, 30, waiting, upcoming, set())) for at_once in (6, 3, 7, 16, 2)]
    assert taken == [4, 3, 5, 16, 2]


def test_messages_with_other_contents_are_sent_alone() -> None:
    with Watched(20) as grid:
        grid.pace = Paced(WORTH_SENDING / 5)
        others = [Message(RecordDict({**messages()[0].content}), client, "train") for client in range(20)]
        assert [metrics_of(reply)["client"] for reply in grid.send_and_receive(others)] == list(range(20))
        assert grid.together == [1] * 20


@pytest.mark.parametrize("early", [False, True])
def test_of_clients_that_were_sent_together_the_one_that_kills_its_worker_fails_alone(
    caplog: pytest.LogCaptureFixture, early: bool
) -> None:
    """Those that the worker had early are lost with it, which is not an attempt of theirs."""
    with Watched(60) as grid:
        grid.pace = Paced(WORTH_SENDING / 5, early=early)
        replies = list(grid.send_and_receive(messages({"kill": 12}, clients=60)))
        assert [client for client, reply in enumerate(replies) if reply.has_error()] == [12]
        assert replies[12].error.reason == f"its worker died {ATTEMPTS} times (signal SIGKILL)"
        assert [metrics_of(reply)["calls"] for reply in replies if not reply.has_error()] == [1] * 59
    assert "while it computed clients 10, 11, 12, 13, 14 in round 4" in caplog.text
    assert caplog.text.count("while it computed client 12 in round 4") == ATTEMPTS - 1


def test_replies_nobody_waits_for_are_dropped(grid: ProcessGrid) -> None:
    replies = grid.send_and_receive(messages())
    next(iter(replies))
    replies.close()  # type: ignore[attr-defined]  # a generator
    again = list(grid.send_and_receive(messages()))
    assert [metrics_of(reply)["client"] for reply in again] == list(range(7))


def test_pushed_messages_are_pulled(grid: ProcessGrid) -> None:
    ids = list(grid.push_messages(messages(clients=3)))
    assert [metrics_of(reply)["client"] for reply in grid.pull_messages(ids)] == [0, 1, 2]


def test_no_worker_is_left_behind() -> None:
    with ProcessGrid(counting_app, 4, CPU, workers=3) as grid:
        pids = grid.worker_process_ids()
        list(grid.send_and_receive(messages(clients=4)))
        assert grid.peak_memory_mb() > 10
        now = sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6
        assert grid.memory_mb() == pytest.approx(now, rel=0.1)
        assert grid.memory_mb() <= 1.02 * grid.peak_memory_mb()
    assert len(set(pids)) == 3
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize(
    ("factory", "cause"),
    [(broken_app, "RuntimeError: the app cannot be built"), (dying_app, r"it died at start \(signal SIGKILL\)")],
)
def test_an_app_that_cannot_be_built_is_an_error(factory: object, cause: str) -> None:
    with pytest.raises(FedsimError, match=rf"(?s)worker 0 could not be started: .*{cause}"):
        ProcessGrid(factory, 2, CPU, workers=2)  # type: ignore[arg-type]


def test_how_many_workers() -> None:
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert worker_count(CPU, None, 1) == len(os.sched_getaffinity(0))
    assert worker_count(CPU, 5, 1) == 5
    assert worker_count(gpus, None, 3) == 6
    assert worker_count(gpus, 4, 3) == 4


@pytest.mark.parametrize(
    ("workers", "per_gpu", "key"), [(0, 1, "workers"), (-1, 1, "workers"), (None, 0, "workers_per_gpu")]
)
def test_too_few_workers_are_refused(workers: int | None, per_gpu: int, key: str) -> None:
    with pytest.raises(UserError, match=rf"engine\.{key}=.*at least 1"):
        worker_count(CPU, workers, per_gpu)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")
def test_sockets_have_names_that_fit_however_long_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(multiprocessing.process.current_process()._config, "tempdir", raising=False)
    fork_server._keep_names_of_sockets_short()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(arbitrary_address("AF_UNIX"))
    assert tempfile.gettempdir() == str(folder)  # for all others
    assert list(folder.iterdir()) == []


def test_a_worker_that_has_nowhere_to_start_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(FedsimError, match=r"^a temporary folder cannot be written \(No usable temporary directory"):
        ProcessGrid(counting_app, 2, [torch.device("cpu")], workers=1)


def test_a_worker_whose_server_has_ended_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = multiprocessing.Pipe()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    Channel(ours, os.getpid()).send_shared(Packed(counting_app))
    ours.close()
    with one_thread():
        serve(theirs, torch.device("cpu"), os.getpid())  # would raise BrokenPipeError


def test_workers_that_are_not_ready_are_ended_when_another_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told to, and not waited for until they are killed."""
    killed: list[BaseProcess] = []
    monkeypatch.setattr(BaseProcess, "kill", lambda process: (killed.append(process), process.terminate()))
    with pytest.raises(FedsimError, match="worker 0 could not be started"):
        ProcessGrid(partial(first_breaks_app, tmp_path), 3, CPU, workers=3)
    assert [child for child in multiprocessing.active_children() if child.name.startswith("fedsim-worker")] == []
    assert killed == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (40, "40")])
def test_signals_have_a_name_or_a_number(number: int, name: str) -> None:
    assert name_of_signal(number) == name
