"""Kills by the kernel for lack of memory are told from other kills, and the sentence says what helps."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.engines import out_of_memory
from fedsim.engines.out_of_memory import OutOfMemoryKills
from fedsim.engines.process import ProcessGrid
from fedsim.messages.schema import CONFIG, ROUND, TRAIN
from tests.apps import counting_app

EVENTS = "low 0\nhigh 3\nmax 7\noom 2\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 12\noom_kill {}\npgfault 3\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the kernel's files, of which there are none yet."""
    monkeypatch.setattr(out_of_memory, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(out_of_memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(out_of_memory, "MACHINE", tmp_path / "vmstat")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "name", "text"),
    [
        ("0::/\n", "cgroup/memory.events", EVENTS),  # a container
        ("0::/user.slice/session-3.scope\n", "cgroup/user.slice/session-3.scope/memory.events", EVENTS),
        ("5:cpu,cpuacct:/a\n4:memory:/docker/7f\n", "cgroup/memory/docker/7f/memory.oom_control", CONTROL),
        ("9:pids:/\n", "cgroup/memory/memory.oom_control", CONTROL),
        ("", "vmstat", VMSTAT),
    ],
)
def test_a_count_that_has_grown_is_a_kill(kernel: Path, membership: str, name: str, text: str) -> None:
    write(kernel / "membership", membership)
    write(kernel / name, text.format(4))
    kills = OutOfMemoryKills()
    assert not kills.happened()
    write(kernel / name, text.format(5))
    assert kills.happened()
    assert not kills.happened()  # that one has been told


def test_kills_elsewhere_on_the_machine_are_not_ours_where_the_group_counts(kernel: Path) -> None:
    write(kernel / "membership", "0::/\n")
    write(kernel / "cgroup/memory.events", EVENTS.format(0))
    write(kernel / "vmstat", VMSTAT.format(0))
    kills = OutOfMemoryKills()
    write(kernel / "vmstat", VMSTAT.format(9))
    assert not kills.happened()


def test_where_nothing_counts_nothing_is_claimed(kernel: Path) -> None:
    kills = OutOfMemoryKills()
    write(kernel / "vmstat", VMSTAT.format(9))
    assert not kills.happened()  # it may have been so before


def dies(grid: ProcessGrid) -> str:
    """What is said of a client that always ends its worker."""
    content = RecordDict({CONFIG: ConfigRecord({ROUND: 4, "kill": 1})})
    (reply,) = grid.send_and_receive([Message(content, 1, TRAIN)])
    return str(reply.error.reason)


@pytest.mark.parametrize(("workers", "remedy"), [(2, "engine.workers=1 or a smaller batch_size"), (1, "a smaller")])
def test_a_worker_that_the_kernel_has_killed_is_told_with_what_helps(
    kernel: Path, workers: int, remedy: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's count grows whenever a worker dies; the kills themselves are real."""
    counts = iter(range(100))
    write(kernel / "membership", "0::/\n")
    monkeypatch.setattr(out_of_memory, "_counts", lambda: {kernel: next(counts)})
    with ProcessGrid(counting_app, 2, [torch.device("cpu")], workers=workers) as grid, caplog.at_level(logging.WARNING):
        reason = dies(grid)
    assert reason.startswith("its worker died 3 times (memory was used up, and the kernel has killed it): choose ")
    assert remedy in reason
    assert "it is replaced: choose " in caplog.text


def test_a_worker_that_somebody_has_killed_is_not_short_of_memory() -> None:
    with ProcessGrid(counting_app, 2, [torch.device("cpu")], workers=1) as grid:
        os.kill(grid.worker_process_ids()[0], signal.SIGKILL)
        assert dies(grid) == "its worker died 3 times (signal SIGKILL)"
