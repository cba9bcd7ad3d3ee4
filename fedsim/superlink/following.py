"""Submits a run with ``flwr run``, shows how it goes, and takes its run directory over."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from fedsim.config import ROOT
from fedsim.errors import FedsimError, UserError
from fedsim.progress import Reporter
from fedsim.recording import check_run_dir
from fedsim.results import Result, read_result
from fedsim.superlink.connection import NAME, SuperLink
from fedsim.superlink.events import Event, events_in

NOT_SENT = ("engine", "out_dir", "resume", "hydra")
"""Keys that are about this machine."""
STARTED = re.compile(r"Successfully started run (\d+)")
LAST_WORDS = 20
"""Lines of Flower's that are shown if a run ends without a word of its own."""


def follow(link: SuperLink, overrides: Sequence[str], run_dir: Path, reporter: Reporter) -> Result:
    """Runs ``overrides``, the words of the command line, on the SuperLink, and fills the run directory from there.

    Errors: ``UserError`` for settings that are wrong there, ``FedsimError`` if the run fails or cannot be submitted.
    """
    check_run_dir(run_dir)
    words = shlex.join(word for word in overrides if re.split("[.=]", word.lstrip("+~"))[0] not in NOT_SENT)
    with tempfile.TemporaryDirectory() as home:
        Path(home, "config.toml").write_text(link.toml())
        config = Path(home, "run.toml")
        config.write_text(f"overrides = {json.dumps(words)}\nfollowed = true\n")
        command = ["flwr", "run", str(ROOT), NAME, "--stream", "--run-config", str(config)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        process = subprocess.Popen(
            command,
            env={**os.environ, "FLWR_HOME": home, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            _play(events_in(iter(process.stdout)), run_dir, reporter, link)
        finally:
            reporter.close()
            process.terminate()
            process.wait()
            process.stdout.close()
    return read_result(run_dir)


def _play(events: Iterable[Event | str], run_dir: Path, reporter: Reporter, link: SuperLink) -> None:
    """Errors: ``FedsimError`` unless the run finishes."""
    number = None
    others: deque[str] = deque(maxlen=LAST_WORDS)
    files = _Files(run_dir)
    try:
        for event in events:
            if isinstance(event, str):
                others.append(event)
                if found := STARTED.search(event):
                    number = found[1]
                    reporter.say(f"run {number} on {link.address}")
                continue
            kind = event.pop("event")
            if kind == "finished":
                files.close()
                for name in event["left"]:
                    reporter.say(f"{name} is too large to come along: it is in {event['run_dir']} on the server")
                return
            if kind == "failed":
                raise (UserError if event["exit_status"] == UserError.exit_status else FedsimError)(event["sentence"])
            if kind == "file":
                files.begin(event["name"])
            elif kind == "piece":
                files.write(base64.b64decode(event["data"]))
            else:
                getattr(reporter, kind)(**event)
    except KeyboardInterrupt:
        if number is not None:
            print(f"run {number} goes on without you: flwr log {number}, or flwr stop {number}", file=sys.stderr)
        raise
    said = "; ".join(line.strip() for line in others if line.strip())
    raise FedsimError(f"the run on {link.address} ended without a result: {said}")


class _Files:
    """The files of a run directory as they come, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._file: BinaryIO | None = None

    def begin(self, name: str) -> None:
        """Errors: ``FedsimError`` for a name that leads out of the folder."""
        self.close()
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise FedsimError(f"the server sent a file called {name}, which is not of a run directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
