"""How much memory this process needs, and has needed."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import psutil

STATUS = Path("/proc/self/status")
"""Only Linux has it."""


@dataclass(frozen=True)
class Memory:
    """The memory of a process in MB (10^6 bytes)."""

    resident: float = 0.0
    """What it holds now"""
    peak: float = 0.0
    """The most it has held so far"""

    @classmethod
    def now(cls) -> Self:
        """Return that of this process."""
        if STATUS.exists():
            sizes = _sizes_mb()  # both in one reading, since workers say it with each answer
            return cls(sizes["VmRSS"], sizes["VmHWM"])
        return cls(resident_memory_mb(), peak_memory_mb())


def resident_memory_mb() -> float:
    """Return the resident set of this process in MB (10^6 bytes)."""
    return float(_process(os.getpid()).memory_info().rss) / 1e6


def peak_memory_mb() -> float:
    """Return the peak resident set of this process so far in MB (10^6 bytes); 0 on Windows: not measured there."""
    if STATUS.exists():  # on Linux, getrusage's value is inherited from the parent process
        return _sizes_mb()["VmHWM"]
    if sys.platform == "win32":
        return 0.0
    import resource  # not there on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def _sizes_mb() -> dict[str, float]:
    """Return what Linux says of this process's memory, by the names that it gives."""
    lines = [line.split() for line in STATUS.read_text("utf-8").splitlines() if line.startswith("Vm")]
    return {name.rstrip(":"): int(kibibytes) * 1024 / 1e6 for name, kibibytes, _ in lines}


@cache
def _process(process_id: int) -> "psutil.Process":
    import psutil  # here, since a device has no need of it

    return psutil.Process(process_id)
