"""Whether the kernel has killed a process because memory was used up: Linux counts these kills."""

import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MACHINE = Path("/proc/vmstat")
COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class OutOfMemoryKills:
    """Compares the kernel's counts of such kills with those when this object was made, or was asked last."""

    def __init__(self) -> None:
        self._before = _counts()

    def happened(self) -> bool:
        """Return whether there was such a kill since; false where nothing counts them."""
        before, self._before = self._before, _counts()
        return any(count > before.get(path, count) for path, count in self._before.items())


def _counts() -> dict[Path, int]:
    """Return the counts by file: those of the control group of this process, or else the one of the machine."""
    found = {path: count for path in _files_of_the_group() if (count := _count(path)) is not None}
    if found:
        return found
    count = _count(MACHINE)
    return {} if count is None else {MACHINE: count}


def _files_of_the_group() -> list[Path]:
    """Return the files that may have the count, of both versions of control groups.

    In a container the group of a process is mounted as the root, whatever its name.
    """
    files = [CGROUP / "memory.events", CGROUP / "memory" / "memory.oom_control"]
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files.append(CGROUP / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(CGROUP / "memory" / group.lstrip("/") / "memory.oom_control")
    return list(dict.fromkeys(files))


def _count(path: Path) -> int | None:
    try:
        found = COUNTER.search(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else int(found[1])
