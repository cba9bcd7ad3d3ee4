"""What the ServerApp tells whoever follows its run: lines of its log, each with a JSON value behind a mark.

Flower hands on nothing of a run but its log. So the finished run directory comes the same way, in pieces.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedsim.progress import Reporter

MARK = "fedsim-event "
PIECE = 48 * 1024
"""Bytes of a file in one line."""
LARGEST_FILE = 32 * 1024 * 1024
"""A larger one stays where it is: a log is no place for it."""
Event = dict[str, Any]
Write = Callable[[str], None]


class EventReporter(Reporter):
    """Says as events what other reporters show."""

    def __init__(self, write: Write) -> None:
        self._write = write

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

    def failed(self, sentence: str, exit_status: int) -> None:
        self.emit("failed", sentence=sentence, exit_status=exit_status)

    def finished(self, run_dir: Path) -> None:
        """The files of the run directory, but for checkpoints and what is too large."""
        left: list[str] = []
        for path in sorted(path for path in run_dir.rglob("*") if path.is_file()):
            name = path.relative_to(run_dir).as_posix()
            if path.stat().st_size > LARGEST_FILE:
                left.append(name)
                continue
            self.emit("file", name=name)
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    self.emit("piece", data=base64.b64encode(piece).decode())
        self.emit("finished", run_dir=str(run_dir), left=left)


def events_in(lines: Iterator[str]) -> Iterator[Event | str]:
    """The events among the lines of a log, and the other lines as they are."""
    for line in lines:
        _, mark, text = line.rstrip("\n").partition(MARK)
        if not mark:
            yield line.rstrip("\n")
            continue
        event = json.loads(text)
        assert isinstance(event, dict)
        yield event
