"""Runs that a command plans before it begins, each in a folder of its own: finished ones are kept, begun ones go on."""

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Self

from fedsim.app.sweep import is_begun, is_finished
from fedsim.config.composition import load
from fedsim.config.kinds import MEASURED, OF_THE_CALL
from fedsim.core.errors import FedsimError, UserError
from fedsim.output.job_lines import JobLines
from fedsim.output.reporters import console_reporter
from fedsim.output.results import Result, read_result
from fedsim.output.terminal import print_line
from fedsim.report.labels import comparable, flattened, written

if TYPE_CHECKING:  # loads torch and Flower, which a table does not need
    from fedsim.config.settings import Settings

AGAIN = 60
"""Seconds after which time that is up ends the block again, in case that it was not noticed, as in a finalizer."""


def folder_name(words: str) -> str:
    """Return the name of a folder for runs with these settings."""
    return re.sub(r"[^\w.=,+-]+", "_", words)


class TimeIsUp(BaseException):
    """The time for planned runs is over; like ``KeyboardInterrupt`` no ``Exception``, so that nothing handles it."""


@dataclass(frozen=True)
class PlannedRun:
    """The settings of a run, and where it is or will be."""

    label: str
    """What tells it from the others, for its line"""
    seed: int
    run_dir: Path
    settings: "Settings"

    def check(self) -> None:
        """Refuse what is not made here, and a folder that holds another run.

        Raises:
            UserError: If the engine is a SuperLink, or the folder holds a run with other settings.
        """
        from fedsim.deployment.superlink import NAME as SUPERLINK

        if self.settings.engine["name"] == SUPERLINK:
            raise UserError(
                "engine=superlink is not possible: these runs are made on this machine, so choose another engine."
            )
        if not is_begun(self.run_dir):
            return
        asked, found = _compared(self.settings.to_config()), _compared(load(self.run_dir))
        other = [key for key in {**asked, **found} if comparable(asked.get(key)) != comparable(found.get(key))]
        if other:
            theirs, ours = (
                ", ".join(f"{key}={written(each.get(key))}" for key in other[:5]) for each in (found, asked)
            )
            raise UserError(
                f"{self.run_dir} holds a run with {theirs}, where {ours} is asked for: choose another --out, or the "
                "settings of before."
            )

    def result(self) -> Result | None:
        """Return the result of the run if it has made all its rounds and written everything."""
        if not is_finished(self.run_dir):
            return None
        result = read_result(self.run_dir)
        return result if result.summary["final"]["round"] == result.summary["rounds"] else None

    def make(self, line: str) -> Result:
        """Make the run, or go on with it; ``line`` tells which it is."""
        from fedsim.config.settings import settings_in
        from fedsim.server.preparation import prepare
        from fedsim.server.simulation import run

        settings = self.settings
        if is_begun(self.run_dir):
            now = {key: getattr(settings, key) for key in OF_THE_CALL}
            settings = replace(settings_in(self.run_dir), resume=str(self.run_dir), **now)
        if not settings.quiet:
            print_line(line)
        return run(prepare(settings), self.run_dir, console_reporter(quiet=settings.quiet))


def _compared(config: dict[str, object]) -> dict[str, object]:
    kept = {key: value for key, value in flattened(config).items() if key not in OF_THE_CALL}
    return {**kept, **{key: config.get(key) for key in ("seed", *MEASURED)}}


@dataclass(frozen=True)
class Made:
    """What became of planned runs."""

    results: list[Result | None]
    """In the order of the runs; ``None`` for those that failed, or are not made yet"""
    failures: list[tuple[PlannedRun, FedsimError]]

    @classmethod
    def before(cls, runs: Sequence[PlannedRun]) -> Self:
        """Return what was made of the runs before."""
        return cls([each.result() for each in runs], [])


def make_all(runs: Sequence[PlannedRun], made: Made | None = None, *, keep_going: bool = False) -> Made:
    """Make every run that is not finished, one after the other.

    Args:
        runs: The runs.
        made: What was made of them before, which is filled, so that it is known where this is interrupted.
        keep_going: Whether a run that fails, as one that diverges does, leaves the others to be made.

    Raises:
        FedsimError: If a run fails, and ``keep_going`` is false.
    """
    made = made or Made.before(runs)
    done = [number for number, result in enumerate(made.results) if result is not None]
    lines = JobLines.of([[f"{each.label} seed={each.seed}"] for each in runs], done)
    for number, each in enumerate(runs):
        if made.results[number] is not None:
            continue
        try:
            made.results[number] = each.make(lines.line(number))
        except FedsimError as error:
            if not keep_going:
                raise
            made.failures.append((each, error))
    return made


def told_failures(made: Made) -> int:
    """Print which runs have failed, and why, and return the exit status of a command that made them."""
    for run, error in made.failures:
        print(f"{run.label} seed={run.seed} failed: {error}", file=sys.stderr)
    return FedsimError.exit_status if made.failures else 0


@contextmanager
def ended_after(minutes: float | None) -> Iterator[None]:
    """End the block, as Ctrl-C would, after so many minutes; ``None`` lets it come to its end.

    Raises:
        UserError: If this operating system has no alarm.
    """
    if minutes is None:
        yield
        return
    if not hasattr(signal, "setitimer"):
        raise UserError("--minutes is not possible on this operating system: leave it out, and press Ctrl-C.")
    armed = True

    def ring(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)  # SIGINT is ignored in a script's background
    another = signal.setitimer(signal.ITIMER_REAL, 60 * minutes, AGAIN)
    try:
        yield
        armed = False
    except TimeIsUp:
        pass
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *another)
