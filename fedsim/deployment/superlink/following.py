"""Submits a run with ``flwr run``, shows its progress, and receives its run directory."""

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

from fedsim.config.settings import Settings
from fedsim.core.checkout import ROOT
from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import writing
from fedsim.deployment.superlink.connection import NAME, SuperLink
from fedsim.deployment.superlink.events import SHOWN, Event, events_in
from fedsim.deployment.superlink.receiving import ReceivedFiles, check_receiving_dir
from fedsim.methods.method import Method
from fedsim.output.progress import Reporter
from fedsim.output.results import Result, read_result

NOT_SENT = ("engine", "out_dir", "resume", "quiet", "hydra")
"""Keys that concern this machine only."""
STARTED = re.compile(r"Successfully started run (\d+)")
LAST_WORDS = 20
"""How many of Flower's last lines are shown if a run ends without an event that says so."""
FRAME = ("\u2500", "\u257f")
"""The first and the last of the characters of which frames are drawn."""
CORNER, SIDE = "\u256d", "\u2502"
"""What a frame's first line begins with, in which its title is, and the lines inside."""


def follow(settings: Settings, overrides: Sequence[str], run_dir: Path, reporter: Reporter) -> Result:
    """Run ``overrides``, the words of the command line, on the SuperLink, and fill the run directory from there.

    Raises:
        UserError: If settings are wrong here or there.
        FedsimError: If the run fails or cannot be submitted.
    """
    link = SuperLink.of(settings.engine)
    Method.of(settings.strategy)  # refuses, before anything is sent, an option that nobody takes
    if settings.resume is not None:
        raise UserError(f"resume={settings.resume} is not possible with engine=superlink: choose another engine.")
    check_receiving_dir(run_dir)
    words = shlex.join(word for word in overrides if re.split("[./=]", word.lstrip("+~"))[0] not in NOT_SENT)
    with writing("a temporary folder"):
        folder = tempfile.TemporaryDirectory()
    with folder as home:
        config, options = Path(home, "run.toml"), f"overrides = {json.dumps(words, ensure_ascii=False)}"
        with writing(home):
            Path(home, "config.toml").write_text(link.toml(), encoding="utf-8")
            config.write_text(f"{options}\nfollowed = true\n", encoding="utf-8")
        process = _flwr("run", str(ROOT), NAME, "--stream", "--run-config", str(config), home=home)
        assert process.stdout is not None
        try:
            _play(events_in(process.stdout), run_dir, reporter, str(link.address))
        finally:
            reporter.close()
            process.terminate()
            process.wait()
            process.stdout.close()
    return _received(run_dir)


def _flwr(*arguments: str, home: str) -> "subprocess.Popen[str]":
    """Start the command ``flwr``, with ``home`` as Flower's folder and its output in a pipe.

    Raises:
        FedsimError: If the command cannot be started.
    """
    environment = {
        **os.environ,
        "FLWR_HOME": home,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",  # progress comes as it happens, and not with the next few kilobytes
        "PYTHONIOENCODING": "utf-8",  # Flower's lines have emojis, whatever the terminal can show
    }
    try:
        return subprocess.Popen(
            ["flwr", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise FedsimError(f"Flower's command flwr cannot be started ({error.strerror})") from error


def _play(events: Iterable[Event | str], run_dir: Path, reporter: Reporter, address: str) -> None:
    """Show the events of the run and write its files, until the run finishes.

    Raises:
        FedsimError: If the run does not finish.
        UserError: If the server reports that a setting is wrong.
    """
    number = None
    others: deque[str] = deque(maxlen=LAST_WORDS)
    try:
        with ReceivedFiles(run_dir) as files:
            for event in events:
                if isinstance(event, str):
                    if event.strip():
                        others.append(event.strip())
                    if found := STARTED.search(event):
                        number = found[1]
                        reporter.say(f"run {number} on {address}")
                elif _take(event, files, reporter):
                    return
            raise FedsimError(f"the run on {address} ended without a result: {_in_one_line(others)}")
    except KeyboardInterrupt:
        if number is not None:
            print(f"run {number} goes on without you: flwr log {number}, or flwr stop {number}", file=sys.stderr)
        raise


def _in_one_line(lines: Iterable[str]) -> str:
    """Return Flower's lines as one, without the frames that it draws around the sentences of its errors."""
    text = ""
    for line in lines:
        inside = " ".join("".join(" " if FRAME[0] <= each <= FRAME[1] else each for each in line).split())
        if inside:
            text += f"{' ' if line.startswith(SIDE) else '; '}{inside}{':' if line.startswith(CORNER) else ''}"
    return text.removeprefix("; ")


def _take(event: Event, files: ReceivedFiles, reporter: Reporter) -> bool:
    """Act on an event; return whether it was the last one of the run.

    Raises:
        FedsimError: If the event says that the run has failed; a ``UserError`` where a setting is wrong.
    """
    kind, values = event["event"], {name: value for name, value in event.items() if name != "event"}
    if kind in SHOWN:
        getattr(reporter, kind)(**values)
    elif kind == "file":
        files.begin(**values)
    elif kind == "piece":
        files.write(**values)
    elif kind == "failed":
        raise (UserError if values["exit_status"] == UserError.exit_status else FedsimError)(values["sentence"])
    else:
        files.end()
        for name in values["left"]:
            why = "is too large to come along, or was not there to be read"
            reporter.warn(f"{name} {why}: look for it in {values['run_dir']} on the server")
    return bool(kind == "finished")


def _received(run_dir: Path) -> Result:
    """Read the received run directory.

    Raises:
        FedsimError: If it is not the directory of a run.
    """
    try:
        return read_result(run_dir)
    except UserError as error:
        raise FedsimError(f"what the server sent is no run: {error}") from error
