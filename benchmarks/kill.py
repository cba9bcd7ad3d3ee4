"""Kills runs at random instants, resumes them, and compares each with a run that nothing disturbed.

    python benchmarks/kill.py --kills 50 --seed 0 strategy=scaffold engine=process rounds=4
    python benchmarks/kill.py --kills 2 --every-strategy engine=inline --csv kills.csv

The whole process group gets SIGKILL: while the run starts, while a cohort trains, while models are evaluated, while a
table or a checkpoint is being written, and at the end. A seed decides the moments. What must be equal: the tables
(of ``rounds.csv`` without times), the models, and the checkpoints. The exit status is 1 if something differs.
"""

import argparse
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from fedsim.config.composition import compose, named_folder
from fedsim.config.settings import settings_of
from fedsim.output.progress import Reporter
from fedsim.output.record_files import load_records
from fedsim.output.tables import Table
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.methods import METHODS, OPTIONS

SMALL = ("rounds=3", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "device=cpu", "pictures=false")
"""Settings that those of the command line change."""
MOMENTS = ("start", "training", "evaluation", "table", "checkpoint", "end")
TABLES = ("clients.csv", "classes.csv", "rounds.csv", "diagnostics.csv", "participation.csv")
TIMES = ("seconds", "device_seconds")
"""Columns of ``rounds.csv`` that measure time."""
LONGEST = 600.0
"""Seconds after which a run that has not ended is an error."""


class Told(Reporter):
    """Prints each event, from which the parent process knows where the run is."""

    def cohort(self, round: int, clients: int) -> None:
        print("cohort", round, clients, flush=True)

    def client_done(self) -> None:
        print("trained", flush=True)

    def round_done(self, round: int, metrics: object) -> None:
        print("recorded", round, flush=True)


def child(words: Sequence[str]) -> None:
    """Run or resume in this process."""
    settings = settings_of(compose(words), words)
    run_dir = named_folder(settings.out_dir, settings.resume)
    assert run_dir is not None
    run(prepare(settings), Path(run_dir), Told())


@dataclass
class Times:
    """When what happened in a run, in seconds since its start."""

    cohorts: dict[int, float] = field(default_factory=dict)
    """By round: the cohort is asked"""
    trained: dict[int, float] = field(default_factory=dict)
    """By round: the last of the cohort has answered"""
    recorded: dict[int, float] = field(default_factory=dict)
    """By round: its rows and its checkpoint are written"""
    end: float = 0.0


class Child:
    """A run in a process group of its own."""

    def __init__(self, words: Sequence[str]) -> None:
        self.times = Times()
        self.started = time.monotonic()
        command = [sys.executable, __file__, "--child", *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._events: queue.SimpleQueue[tuple[float, list[str]] | None] = queue.SimpleQueue()
        self._said = ""
        self._waiting = 0
        self._round = 0
        threading.Thread(target=self._read, daemon=True).start()
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._errors.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put((time.monotonic() - self.started, line.split()))
        self._events.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._said = self.process.stderr.read()

    def until(self, there: Callable[[], bool]) -> bool:
        """Process events until ``there`` is true; false if the run has ended before."""
        while not there():
            try:
                event = self._events.get(timeout=LONGEST)
            except queue.Empty:
                self.kill()
                raise RuntimeError(f"nothing has happened for {LONGEST:.0f} s") from None
            if event is None:
                return False
            self._see(*event)
        return True

    def _see(self, at: float, words: list[str]) -> None:
        match words:
            case ["cohort", round, clients]:
                self._round, self._waiting = int(round), int(clients)
                self.times.cohorts[self._round] = at
            case ["trained"]:
                self._waiting -= 1
                if self._waiting == 0:
                    self.times.trained[self._round] = at
            case ["recorded", round]:
                self.times.recorded[int(round)] = at

    def watch(self, happened: Callable[[], bool]) -> None:
        """Wait, without a pause, until ``happened`` is true or the run has ended."""
        while not happened() and self.process.poll() is None:
            pass

    def kill(self) -> bool:
        """Kill the process group; return whether the run had not ended."""
        alive = self.process.poll() is None
        if alive:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return alive

    def finish(self) -> Times:
        """Wait for the end.

        Raises:
            RuntimeError: If the run fails; with what it has said.
        """
        self.until(lambda: False)
        status = self.process.wait(timeout=LONGEST)
        self._errors.join()
        if status:
            raise RuntimeError(f"the run ended with status {status}:\n{self._said}")
        self.times.end = time.monotonic() - self.started
        return self.times


@dataclass(frozen=True)
class Kill:
    """A moment at which to kill."""

    moment: str
    round: int
    share: float
    """How far into the moment, from 0 to 1"""

    def __str__(self) -> str:
        return f"{self.moment:<10} round {self.round}, {self.share:.0%} into it"

    def strike(self, run: Child, run_dir: Path, known: Times) -> bool:
        """Wait for the moment and kill; return whether the run had not ended.

        Args:
            run: The run.
            run_dir: Its directory.
            known: The times of a run that nothing disturbed.
        """
        if self.moment == "start":
            time.sleep(self.share * known.cohorts[1])
        elif self.moment == "training":
            run.until(lambda: self.round in run.times.cohorts)
            time.sleep(self.share * (known.trained[self.round] - known.cohorts[self.round]))
        elif self.moment == "end":
            run.until(lambda: self.round in run.times.recorded)
            time.sleep(self.share * (known.end - known.recorded[self.round]))
        else:
            run.until(lambda: self.round in run.times.trained)
            if self.moment == "evaluation":
                time.sleep(self.share * (known.recorded[self.round] - known.trained[self.round]))
            elif self.moment == "table":
                before = _sizes(run_dir)
                run.watch(lambda: _sizes(run_dir) != before)
            else:
                new = run_dir / "checkpoints" / f".round_{self.round:05d}.safetensors.new"
                run.watch(new.exists)
                time.sleep(self.share * 0.002)
        return run.kill()


def _sizes(run_dir: Path) -> list[int]:
    return [os.stat(path).st_size if (path := run_dir / name).exists() else 0 for name in TABLES]


def kills(number: int, rounds: int, seed: int, first: int = 0) -> Iterator[Kill]:
    """Yield so many kills: all moments in turn, from the one with the number ``first`` on, in random rounds."""
    draw = random.Random(seed)
    for each in range(number):
        moment = MOMENTS[(first + each) % len(MOMENTS)]
        yield Kill(moment, rounds if moment == "end" else draw.randint(1, rounds), draw.random())


def differences(run_dir: Path, other: Path) -> list[str]:
    """Return the names of the files in which two runs differ."""
    files = _files(run_dir)
    found = sorted(map(str, files ^ _files(other)))
    for name in sorted(files & _files(other)):
        one, two = run_dir / name, other / name
        if name.name == "rounds.csv":
            rows = [[_without_times(row) for row in Table(each).read()] for each in (one, two)]
            same = rows[0] == rows[1]
        elif name.parts[0] == "checkpoints":  # the order of what is in such a file is not fixed
            same = load_records(one) == load_records(two)
        elif name.suffix in (".csv", ".safetensors"):
            same = one.read_bytes() == two.read_bytes()
        else:  # settings, software and pages, which name times and folders
            continue
        if not same:
            found.append(str(name))
    return found


def _files(run_dir: Path) -> set[Path]:
    """Return the files of a run by their names in its directory, without those that were not completed."""
    return {
        path.relative_to(run_dir) for path in run_dir.rglob("*") if path.is_file() and not path.name.startswith(".")
    }


def _without_times(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in TIMES}


def tried(kill: Kill, words: Sequence[str], run_dir: Path, whole: Path, known: Times) -> tuple[bool, list[str]]:
    """Kill a run, let it go on, and compare; return whether it had not ended, and what differs.

    Raises:
        RuntimeError: If the run cannot go on.
    """
    struck = kill.strike(Child([*words, f"out_dir={run_dir}"]), run_dir, known)
    begun = (run_dir / "config.yaml").exists()
    Child([f"resume={run_dir}"] if begun else [*words, f"out_dir={run_dir}"]).finish()
    return struck, differences(run_dir, whole)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def killed(kills: Iterable[Kill], words: Sequence[str], folder: Path) -> Iterator[dict[str, object]]:
    """Kill a run of these words each time, and yield a row for each."""
    settings = settings_of(compose(words))
    known = Child([*words, f"out_dir={folder / 'whole'}"]).finish()
    print(f"{settings.strategy['name']}, a run that nothing disturbs: {known.end:.1f} s", flush=True)
    for each, kill in enumerate(kills):
        try:
            struck, found = tried(kill, words, folder / str(each), folder / "whole", known)
        except RuntimeError as error:
            struck, found = True, [str(error)]
        print(f"{kill}{'' if struck else ' (it had ended)'}: {', '.join(found) or 'equal'}", flush=True)
        yield {
            "strategy": settings.strategy["name"],
            "engine": settings.engine["name"],
            "moment": kill.moment,
            "round": kill.round,
            "share": round(kill.share, 3),
            "killed": struck,
            "equal": not found,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every-strategy", action="store_true", help="so many kills of each strategy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder in which the runs stay")
    parser.add_argument("--csv", type=Path, help="where the rows are written, each as soon as it is known")
    options, words = parser.parse_known_args()
    variants: list[tuple[str, ...]] = [()]
    if options.every_strategy:
        variants = [("fraction=0.5", f"strategy={name}", *OPTIONS.get(name, ())) for name in METHODS]
    rows: list[dict[str, object]] = []
    with _folder(options.keep) as folder:
        for number, variant in enumerate(variants):
            each = [*SMALL, *variant, *words]
            rounds = settings_of(compose(each)).rounds
            # Each strategy is killed at moments of its own.
            chosen = kills(options.kills, rounds, options.seed + number, number * options.kills)
            for row in killed(chosen, each, folder / f"runs{number}"):
                rows.append(row)
                if options.csv:
                    pd.DataFrame(rows).to_csv(options.csv, index=False)
    print(pd.DataFrame(rows).groupby("moment", sort=False)[["killed", "equal"]].sum().to_string())
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        sys.exit(main())
