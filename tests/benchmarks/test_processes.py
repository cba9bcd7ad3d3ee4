"""The memory of a process and of what it starts, as the benchmarks read it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import processes
from benchmarks.processes import Process, ProcessTree

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MEGABYTES = 64
PROGRAM = f"""
import mmap, os, sys
kind, size = sys.argv[1], {MEGABYTES} << 20
if kind != "none":
    file = os.memfd_create("pages")
    os.truncate(file, size)
    memory = mmap.mmap(file, 0)
    memory.write(b"a" * size)
    if kind == "open":
        memory.close()
    if kind == "mapped":
        os.close(file)
print("written", flush=True)
sys.stdin.readline()
"""


@contextmanager
def program(kind: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def peak_mb(kind: str) -> float:
    with program(kind) as process:
        tree = ProcessTree(process.pid)
        tree.read()
        tree.close()
        return tree.peak_mb


@pytest.mark.parametrize("kind", ["open", "mapped", "both"])
def test_a_file_in_memory_counts_once_whether_it_is_open_or_mapped(kind: str) -> None:
    assert peak_mb(kind) - peak_mb("none") == pytest.approx(MEGABYTES, abs=8)


def test_what_watches_leaves_the_machine_to_what_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = []

    def slow(_: ProcessTree) -> float:
        readings.append(time.sleep(0.1))
        return 0.0

    monkeypatch.setattr(ProcessTree, "read", slow)
    monkeypatch.setattr(processes, "INTERVAL", 0.01)
    with program("none") as process:
        tree = ProcessTree(process.pid)
        time.sleep(1)
        tree.close()
    assert len(readings) == 1  # the next one would be after ten seconds


def test_a_process_with_the_number_of_one_that_has_ended_is_not_ended() -> None:
    with program("none") as other:
        tree = ProcessTree(other.pid)
        tree._root, tree._ticks = Process(other.pid, started=0), {}  # an earlier process had its number
        tree.close()
        time.sleep(0.1)
        assert other.poll() is None
