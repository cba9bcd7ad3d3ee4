"""Events that the ServerApp sends to a program that follows its run: lines of its log, a JSON value after a mark.

Flower transfers nothing of a run but its log. So the finished run directory is sent the same way, in pieces.
"""

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.output.progress import Reporter

MARK = "fedsim-event "
"""The beginning of a line with an event."""
PIECE = 48 * 1024
"""Bytes of a file in one line."""
BREATH = 1024 * 1024
PAUSE = 1 / 8
"""After ``BREATH`` bytes the sender waits ``PAUSE`` seconds. Flower's log is uploaded from an unbounded queue, which
has three seconds to empty at the end of the run: what is still in it then is lost."""
LARGEST_FILE = 256 * 1024 * 1024
"""Bytes; a larger file is not sent, since the SuperLink stores the whole log of a run."""
LARGEST_NUMBER = 2**31
SHOWN: dict[str, dict[str, type]] = {
    "start": {"first_round": int, "rounds": int},
    "cohort": {"round": int, "clients": int},
    "client_done": {},
    "round_done": {"round": int, "metrics": dict},
    "say": {"text": str},
    "warn": {"text": str},
}
"""The events that are methods of a ``Reporter``, with their arguments."""
EVENTS: dict[str, dict[str, type]] = {
    **SHOWN,
    "file": {"name": str, "size": int},
    "piece": {"data": str},
    "failed": {"sentence": str, "exit_status": int},
    "finished": {"run_dir": str, "left": list},
}
SHOWN_METRICS = (
    *("client_accuracy_mean", "client_accuracy_worst", "global_accuracy"),
    *("images_per_second", "memory_mb"),
)
"""The metrics that reporters print as numbers."""
Event = dict[str, Any]
Write = Callable[[str], None]


class EventReporter(Reporter):
    """Writes as events what other reporters show."""

    def __init__(self, write: Write, pause: Callable[[float], object] = time.sleep) -> None:
        self._write = write
        self._pause = pause

    def emit(self, event: str, **values: Any) -> None:
        self._write(MARK + json.dumps({"event": event, **values}))

    def start(self, first_round: int, rounds: int) -> None:
        self.emit("start", first_round=first_round, rounds=rounds)

    def cohort(self, round: int, clients: int) -> None:
        self.emit("cohort", round=round, clients=clients)

    def client_done(self) -> None:
        self.emit("client_done")

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self.emit("round_done", round=round, metrics=metrics)

    def say(self, text: str) -> None:
        self.emit("say", text=text)

    def warn(self, text: str) -> None:
        self.emit("warn", text=text)

    def failed(self, sentence: str, exit_status: int) -> None:
        self.emit("failed", sentence=sentence, exit_status=exit_status)

    def finished(self, run_dir: Path) -> None:
        """Send the files of the run directory, except checkpoints, hidden files and those that ``_content`` leaves."""
        left: list[str] = []
        sent = 0
        for path in _files(run_dir):
            parts = path.relative_to(run_dir).parts
            if parts[0] == "checkpoints" or any(part.startswith(".") for part in parts):
                continue
            name, content = "/".join(parts), _content(path)
            if content is None:
                left.append(name)
                continue
            self.emit("file", name=name, size=len(content))
            for start in range(0, len(content), PIECE):
                piece = content[start : start + PIECE]
                self.emit("piece", data=base64.b64encode(piece).decode())
                sent += len(piece)
                if sent >= BREATH:
                    self._pause(PAUSE)
                    sent = 0
        self.emit("finished", run_dir=str(run_dir), left=left)


def _files(run_dir: Path) -> list[Path]:
    """Return the files in and below a folder; what is deleted meanwhile is passed over."""
    there = (Path(folder, name) for folder, _, names in os.walk(run_dir) for name in names)
    return sorted(path for path in there if path.is_file())


def _content(path: Path) -> bytes | None:
    """Return a file's bytes as they are at this moment; ``None`` if they are too many or cannot be read.

    The processes of a tracker may write logs into the run directory after the run, so that a file that is read in
    pieces has not the size that it had at first.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(size) if size <= LARGEST_FILE else None
    except OSError:
        return None


def events_in(lines: Iterable[str]) -> Iterator[Event | str]:
    """Yield the events among the lines of a log, and the other lines unchanged.

    Raises:
        FedsimError: If there is an event that no ``EventReporter`` writes.
    """
    for line in lines:
        if not line.startswith(MARK):
            yield line.rstrip("\n")
            continue
        try:
            event, end = json.JSONDecoder().raw_decode(line, len(MARK))
        except (ValueError, RecursionError) as error:
            raise _malformed(line) from error
        if not _is_event(event):
            raise _malformed(line)
        yield event
        # `print` ends its line in a second step, between which another thread may have written one.
        if rest := line[end:].rstrip("\n"):
            yield rest


def _is_event(event: object) -> bool:
    """Return whether this is an event that ``EventReporter`` writes, with values that reporters can show."""
    kinds = EVENTS.get(str(event.get("event"))) if isinstance(event, dict) else None
    if kinds is None or not isinstance(event, dict) or event.keys() != {"event", *kinds}:
        return False
    if any(type(event[name]) is not kind for name, kind in kinds.items()):  # True is no number here
        return False
    numbers = [event[name] for name, kind in kinds.items() if kind is int]
    shown = [event["metrics"][name] for name in SHOWN_METRICS if name in event.get("metrics", {})]
    return (
        all(0 <= number < LARGEST_NUMBER for number in numbers)
        and event.get("clients") != 0
        and all(isinstance(value, float) for value in shown)
        and all(isinstance(name, str) for name in event.get("left", []))
    )


def _malformed(line: str) -> FedsimError:
    shown = line.rstrip("\n")
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    return FedsimError(f"the server sent a line that no run of this version writes: {shown!r}")
