"""Rounds per hour with more workers than there are here: measured with few, predicted for many.

    python benchmarks/scale.py --case small toy --workers 1 2 4 --repeat 3

A client costs a worker ``client`` processor seconds and the server's process ``server`` ones, which are measured; the
server takes replies while the workers train. With w workers on cores of their own, and n clients, a round takes

    fixed + max(n · server, ⌈n / w⌉ · client)   seconds,

and on c cores, which the server and the workers share, not less than ``fixed + n · (server + client) / c``. ``fixed``
is what is left of the measured rounds. The printed error is that of a number of workers that the fit has not seen.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from benchmarks.compare import told
from benchmarks.contestants.cases import CASES, Task
from benchmarks.contestants.images import write

MANY = (10, 100, 1000, 10_000)
"""Workers that are predicted."""
CONTESTANT = "fedsim_lean"


class Measured(NamedTuple):
    """One run: seconds of a round, and processor seconds of a round."""

    clients: int
    workers: int
    seconds: float
    server: float
    """Of the server's process"""
    training: float
    """Of the workers together"""


@dataclass(frozen=True)
class Costs:
    """What a round costs, in seconds."""

    client: float
    """Of a worker, for each client"""
    server: float
    """Of the server's process, for each client"""
    fixed: float = 0.0

    def seconds(self, clients: int, workers: int, cores: int | None = None) -> float:
        """Return the seconds of a round; without ``cores`` every process has one of its own."""
        apart = max(clients * self.server, math.ceil(clients / workers) * self.client)
        together = 0.0 if cores is None else clients * (self.server + self.client) / cores
        return self.fixed + max(apart, together)

    @property
    def most_workers(self) -> float:
        """The number of workers beyond which the server is the bottleneck."""
        return self.client / self.server


def fit(rows: Sequence[Measured], cores: int) -> Costs:
    """Return the costs: medians of the processor times, and the mean of the seconds that these leave unexplained."""
    table = pd.DataFrame(rows)
    client = float((table["training"] / table["clients"]).median())
    server = float((table["server"] / table["clients"]).median())
    known = Costs(client, server)
    left = [row.seconds - known.seconds(row.clients, row.workers, cores) for row in rows]
    return Costs(client, server, max(0.0, sum(left) / len(left)))


def errors(rows: Sequence[Measured], cores: int) -> pd.DataFrame:
    """Return, for each number of workers, its seconds and those that the other numbers predict."""
    found = []
    for workers in sorted({row.workers for row in rows}):
        mine = [row for row in rows if row.workers == workers]
        others = [row for row in rows if row.workers != workers]
        predicted = fit(others, cores).seconds(mine[0].clients, workers, cores)
        seconds = float(pd.Series([row.seconds for row in mine]).median())
        found.append({"workers": workers, "seconds": seconds, "predicted": predicted, "error": predicted / seconds - 1})
    return pd.DataFrame(found)


def predictions(costs: Costs, clients: Sequence[int]) -> pd.DataFrame:
    """Return rounds per hour for each number of clients a round and of workers, each on a core of its own."""
    found = []
    for number in clients:
        for workers in MANY:
            seconds, longest = costs.seconds(number, workers), math.ceil(number / workers) * costs.client
            found.append(
                {
                    "clients": number,
                    "workers": workers,
                    "rounds_per_hour": 3600 / seconds,
                    "workers_busy": number * costs.client / (workers * seconds),
                    "bound_by": "server" if number * costs.server > longest else "workers",
                }
            )
    return pd.DataFrame(found)


def measure(task: Task, limit: float) -> Measured:
    """Run fedsim, without checkpoints and evaluation, and return what a round took after the first one.

    Raises:
        RuntimeError: If the run fails, or takes longer than ``limit`` seconds.
    """
    seen, rounds = told(task, limit), task.rounds - 1
    seconds = (seen.record["ends"][-1] - seen.record["begun"]) / rounds
    everything, server = seen.cpu[1] - seen.cpu[0], seen.own_cpu[1] - seen.own_cpu[0]
    return Measured(task.what.cohort, task.workers, seconds, server / rounds, (everything - server) / rounds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=["small"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=10, help="of which the first is not measured")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 10_000], help="of a round that is predicted")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a run is ended")
    parser.add_argument("--out", type=Path, default=Path("outputs/scale"), help="folder of the tables")
    options = parser.parse_args(arguments)
    if options.rounds < 2 or len(set(options.workers)) < 2:
        parser.error("--rounds must be at least 2, and --workers two different numbers.")
    cores = len(os.sched_getaffinity(0))
    options.out.mkdir(parents=True, exist_ok=True)
    for case in options.case:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), CASES[case], 0)
            rows = [
                measure(Task(CONTESTANT, case, folder, options.rounds, workers, 0), options.limit)
                for _ in range(options.repeat)
                for workers in options.workers
            ]
        costs, checked = fit(rows, cores), errors(rows, cores)
        found = predictions(costs, options.clients)
        client, server, fixed = (1000 * seconds for seconds in (costs.client, costs.server, costs.fixed))
        print(
            f"\n{case}, {cores} cores: {client:.2f} ms of a worker and {server:.2f} ms of the server for each client,"
        )
        print(f"{fixed:.0f} ms for a round; beyond {costs.most_workers:.0f} workers the server is the bottleneck")
        for name, table in (("measured", pd.DataFrame(rows)), ("errors", checked), ("predicted", found)):
            table.to_csv(options.out / f"{case}_{name}.csv", index=False)
        print(checked.round(3).to_string(index=False))
        print(found.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
