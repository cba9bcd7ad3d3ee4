"""How fast a federated round is in fedsim, in Flower's simulation on Ray, in pfl-research and in a bare loop.

    python benchmarks/compare.py --case small large --rounds 20 --repeat 5

Every contestant runs in a new process, in turn, and over again in the opposite order; ratios are formed inside a
repetition, and quoted are medians. README.md in this folder says what is measured.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.cases import CASES, Task
from benchmarks.contestants.images import write
from benchmarks.contestants.record import PAUSE
from benchmarks.processes import ProcessTree

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "bare"
FIGURES = ("rounds_per_second", "ratio_to_bare", "first_round_seconds", "cpu_seconds_per_client", "peak_mb")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Told(NamedTuple):
    """What a contestant told, and what was read at the ends of its first and its last round."""

    record: dict[str, Any]
    cpu: list[float]
    own_cpu: list[float]
    """Of the process alone that was started; with workers, of the server"""
    started: float
    peak_mb: float


def told(task: Task, limit: float) -> Told:
    """Run a contestant in a new process.

    Raises:
        RuntimeError: If it fails, or takes longer than ``limit`` seconds.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarks.contestants.run", task.text()]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        tree = ProcessTree(process.pid)
        alarm = threading.Timer(limit, process.kill)
        alarm.start()
        cpu: list[float] = []
        own_cpu: list[float] = []
        record = None
        try:
            for line in process.stdout:
                if line.strip() == PAUSE:
                    cpu.append(tree.read())
                    own_cpu.append(tree.own_seconds)
                    process.stdin.write("\n")
                    process.stdin.flush()
                elif line.startswith('{"begun"'):
                    record = json.loads(line)
            status = process.wait()
        finally:
            alarm.cancel()
            tree.close()
        if status or record is None:
            errors.seek(0)
            lines = "".join(errors.readlines()[-30:])
            raise RuntimeError(f"{task.contestant} ended with status {status}:\n{lines}")
    return Told(record, cpu, own_cpu, started, tree.peak_mb)


def measured(task: Task, limit: float) -> dict[str, Any]:
    """Return the row of a contestant, but for its ratio.

    Raises:
        RuntimeError: If it fails, or has not trained what it should have.
    """
    case, seen = task.what, told(task, limit)
    record, ends = seen.record, seen.record["ends"]
    expected = [case.cohort * case.images] * task.rounds
    if record["images"] != expected or len(ends) != task.rounds:
        raise RuntimeError(f"{task.contestant} trained {record['images']} images in its rounds, not {expected}.")
    if len(record["losses"]) != task.rounds or not all(map(math.isfinite, record["losses"])):
        raise RuntimeError(f"{task.contestant} had losses of {record['losses']}.")
    rounds = task.rounds - 1  # the first one is told apart
    return {
        "case": task.case,
        "contestant": task.contestant,
        "workers": task.workers,
        "rounds": task.rounds,
        "clients": case.cohort,
        "images": sum(record["images"]),
        "first_loss": record["losses"][0],
        "last_loss": record["losses"][-1],
        "rounds_per_second": rounds / (ends[-1] - record["begun"]),
        "first_round_seconds": ends[0] - seen.started,
        "cpu_seconds_per_client": (seen.cpu[1] - seen.cpu[0]) / (rounds * case.cohort),
        "peak_mb": seen.peak_mb,
    }


def rows(options: argparse.Namespace, contestants: list[str]) -> Iterator[dict[str, Any]]:
    for case in options.case:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), CASES[case], options.seed)
            for repetition in range(options.repeat):
                for name in contestants[:: -1 if repetition % 2 else 1]:
                    task = Task(name, case, folder, options.rounds, options.workers, options.seed)
                    try:
                        row = measured(task, options.limit)
                    except RuntimeError as error:
                        print(f"{case}, {error}", file=sys.stderr, flush=True)
                        continue
                    print(f"{case:14} {name:12} {row['rounds_per_second']:.3f} rounds/s", file=sys.stderr, flush=True)
                    yield {"repetition": repetition, **row}


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each contestant's rounds per second as a multiple of the bare loop's in its repetition."""
    place = ["case", "repetition"]
    bare = table[table["contestant"] == REFERENCE].set_index(place)["rounds_per_second"].rename("bare")
    joined = table.join(bare, on=place)
    return table.assign(ratio_to_bare=joined["rounds_per_second"] / joined["bare"])


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES)[:2])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=10, help="of which the first is not part of rounds per second")
    parser.add_argument("--workers", type=int, default=2, help="processes that train, each with one thread")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a contestant is ended")
    parser.add_argument("--csv", type=Path, default=Path("outputs/compare.csv"), help="where the rows are written")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2.")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    contestants = []
    for name in options.contestants:
        if missing := CONTESTANTS[name].missing():
            print(f"{name} is left out, since it needs {', '.join(missing)}: {CONTESTANTS[name].install}")
        else:
            contestants.append(name)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, Any]] = []
    for row in rows(options, contestants):
        done.append(row)
        table = with_ratios(pd.DataFrame(done))
        table.to_csv(options.csv, index=False)  # after each row, so that a run that is stopped leaves what it measured
    if not done:
        sys.exit("nothing was measured")
    medians = table.groupby(["case", "contestant"], sort=False)[list(FIGURES)].median()
    print(medians.to_string(float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that contestants are ended, too
    main()
