"""Runs that a command plans before it begins, each in a folder of its own: finished ones are kept, begun ones go on."""

import _thread
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.config.composition import load
from fedsim.core.errors import FedsimError, UserError
from fedsim.output.job_lines import JobLines
from fedsim.output.reporters import console_reporter
from fedsim.output.results import Result, read_result
from fedsim.output.terminal import print_line
from fedsim.report.labels import comparable, flattened, written

if TYPE_CHECKING:  # loads torch and Flower, which a table does not need
    from fedsim.config.settings import Settings


@dataclass(frozen=True)
class PlannedRun:
    """The settings of a run, and where it is or will be."""

    label: str
    """What tells it from the others, for its line"""
    seed: int
    run_dir: Path
    settings: "Settings"

    def check_folder(self) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UserError: If it holds a run with other settings.
        """
        if not (self.run_dir / "config.yaml").exists():
            return
        asked, found = flattened(self.settings.to_config()), flattened(load(self.run_dir))
        for key in dict.fromkeys((*asked, *found)):
            if comparable(asked.get(key)) != comparable(found.get(key)):
                raise UserError(
                    f"{self.run_dir} holds a run with {key}={written(found.get(key))}, where {key}="
                    f"{written(asked.get(key))} is asked for: choose another --out, or delete that folder."
                )

    def finished(self) -> Result | None:
        """Return the result of the run if it has made all its rounds."""
        if (self.run_dir / "summary.json").exists():
            result = read_result(self.run_dir)
            if result.summary["final"]["round"] == result.summary["rounds"]:
                return result
        return None

    def make(self, line: str) -> Result:
        """Make the run, or go on with it; ``line`` tells which it is."""
        from fedsim.config.settings import settings_in
        from fedsim.server.preparation import prepare
        from fedsim.server.simulation import run

        settings = self.settings
        if (self.run_dir / "config.yaml").exists():
            settings = replace(settings_in(self.run_dir), resume=str(self.run_dir))
        if not settings.quiet:
            print_line(line)
        return run(prepare(settings), self.run_dir, console_reporter(quiet=settings.quiet))


@dataclass(frozen=True)
class Made:
    """What became of planned runs."""

    results: list[Result | None]
    """In the order of the runs; ``None`` for those that failed, or for which there was no time"""
    failures: list[tuple[PlannedRun, FedsimError]]


def make_all(runs: Sequence[PlannedRun], minutes: float | None = None, *, keep_going: bool = False) -> Made:
    """Make every run that is not finished, one after the other, or as many as there is time for.

    The run that the end of the time interrupts goes on from its last checkpoint the next time.

    Args:
        runs: The runs.
        minutes: When to stop; ``None`` for when all are made.
        keep_going: Whether a run that fails, as one that diverges does, leaves the others to be made.

    Raises:
        FedsimError: If a run fails, and ``keep_going`` is false; a ``UserError`` in any case.
    """
    results = [each.finished() for each in runs]
    done = [number for number, result in enumerate(results) if result is not None]
    lines = JobLines.of([[f"{each.label} seed={each.seed}"] for each in runs], done)
    failures: list[tuple[PlannedRun, FedsimError]] = []
    with _interrupted_after(minutes):
        for number, each in enumerate(runs):
            if results[number] is not None:
                continue
            try:
                results[number] = each.make(lines.line(number))
            except UserError:
                raise
            except FedsimError as error:
                if not keep_going:
                    raise
                failures.append((each, error))
    return Made(results, failures)


@contextmanager
def _interrupted_after(minutes: float | None) -> Iterator[None]:
    """End the block after so many minutes, as Ctrl-C would end it; Ctrl-C itself still raises."""
    if minutes is None:
        yield
        return
    end = time.monotonic() + 60 * minutes
    timer = threading.Timer(60 * minutes, _press_ctrl_c)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if time.monotonic() < end:
            raise
    finally:
        timer.cancel()


def _press_ctrl_c() -> None:
    if hasattr(signal, "pthread_kill"):  # which also ends a wait for workers
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()
