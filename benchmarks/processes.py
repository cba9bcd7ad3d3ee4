"""Processor time and memory of a process and of all that it starts, read from Linux's ``/proc``."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
INTERVAL = 0.5
"""Seconds between readings"""
SHARE = 0.01
"""Of the time, at most, that is spent reading the memory. The kernel looks at each page of a process, which takes 30 to
90 ms of a core for a simulator: twice a second, that was a tenth of two cores, and most for who has most processes."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same number by when it started."""

    number: int
    started: int


@dataclass(frozen=True)
class Reading:
    parent: int
    ticks: int


def running() -> dict[Process, Reading]:
    """Return all processes of the machine that can be read."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                # The name, in parentheses, may have spaces and parentheses itself.
                words = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                found[Process(int(folder.name), int(words[19]))] = Reading(int(words[1]), sum(map(int, words[11:13])))
    return found


ALL, IN_FILES_IN_MEMORY = "Pss:", "Pss_Shmem:"
NO_FILES = "Pss_Anon:", IN_FILES_IN_MEMORY
FILES_IN_MEMORY = ("/memfd:", "/dev/shm/")


def memory_kb(process: Process, parts: tuple[str, ...] = (ALL,)) -> int:
    """Return the proportional set size: pages that processes share are divided among them.

    ``NO_FILES`` leaves out the pages of files, such as torch's libraries: other programs of the machine may share them,
    so that what a process has of them changes as those come and go.
    """
    sizes = _set_sizes_kb(process)
    return sum(sizes.get(part, 0) for part in parts)


def _set_sizes_kb(process: Process) -> dict[str, int]:
    """Return the process's set sizes by name; none if it cannot be read."""
    with suppress(OSError, ValueError):
        lines = (PROC / str(process.number) / "smaps_rollup").read_text("ascii").splitlines()
        return {words[0]: int(words[1]) for words in map(str.split, lines) if words[0].endswith(":")}
    return {}


def open_files_in_memory_kb(processes: Iterable[Process]) -> int:
    """Return the size of the files in memory that processes have open, each once.

    Their pages are nobody's until a process maps and touches them, and are there all the same.
    """
    sizes = {}
    for process in processes:
        with suppress(OSError):  # it has ended, or is somebody else's
            for descriptor in (PROC / str(process.number) / "fd").iterdir():
                with suppress(OSError):  # closed since
                    if os.readlink(descriptor).startswith(FILES_IN_MEMORY):
                        status = descriptor.stat()
                        sizes[status.st_dev, status.st_ino] = status.st_blocks // 2
    return sum(sizes.values())


def memory_of_all_kb(processes: Sequence[Process]) -> int:
    """Return the memory of processes together, with the files in memory that they have open."""
    sizes = [_set_sizes_kb(process) for process in processes]
    mapped = sum(each.get(IN_FILES_IN_MEMORY, 0) for each in sizes)
    return sum(each.get(ALL, 0) for each in sizes) + max(0, open_files_in_memory_kb(processes) - mapped)


class ProcessTree:
    """Watches a process and what comes of it, also after the processes between have ended.

    A process that starts and ends between two readings is not seen.
    """

    def __init__(self, root: int) -> None:
        self._root = next((process for process in running() if process.number == root), Process(root, started=0))
        self._ticks: dict[Process, int] = {}
        self._peak_kb = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        due = 0.0
        while not self._ended.wait(INTERVAL):
            begun = time.monotonic()
            if begun < due:
                self._read_ticks()
            else:
                self.read()
                due = begun + (time.monotonic() - begun) / SHARE

    def read(self) -> float:
        """Read the processes now and return the processor seconds of all of them so far, also of those that ended."""
        with self._lock:
            alive = self._alive()
            self._peak_kb = max(self._peak_kb, memory_of_all_kb(alive))
            return sum(self._ticks.values()) / TICKS

    def _read_ticks(self) -> None:
        """Read the processor time alone, which is quick."""
        with self._lock:
            self._alive()

    @property
    def own_seconds(self) -> float:
        """Processor seconds of the watched process alone, at the last reading."""
        with self._lock:
            return self._ticks.get(self._root, 0) / TICKS

    @property
    def peak_mb(self) -> float:
        return self._peak_kb / 1024

    def _alive(self) -> list[Process]:
        readings = running()
        known = {process.number for process in readings if process in self._ticks or process == self._root}
        grown = True
        while grown:
            new = {process.number for process, reading in readings.items() if reading.parent in known} - known
            grown, known = bool(new), known | new
        alive = [process for process in readings if process.number in known]
        self._ticks |= {process: readings[process].ticks for process in alive}
        return alive

    def close(self) -> None:
        """End the watching, and whatever still runs."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            for process in self._alive():
                with suppress(OSError):
                    os.kill(process.number, signal.SIGKILL)
