"""How much memory this process has needed."""

import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """Return the peak resident set of this process so far in MB (10^6 bytes); 0 on Windows: not measured there."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage's value is inherited from the parent process
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource  # not there on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6
