"""Rounds per hour with more workers than there are here: measured with few, predicted for many.

    python benchmarks/scale.py --case small toy --workers 1 2 4 12 --repeat 2

A client costs a worker ``client`` processor seconds and the server's process ``server`` ones, or ``grouped`` ones if
its reply was added up with others; the server takes replies while the workers train. With w workers on cores of their
own, and n clients of which the share g is in groups, a round takes

    fixed + max(n · (g · grouped + (1 - g) · server), ⌈n / w⌉ · client)   seconds,

and on c cores, which the server and the workers share, not less than all the work divided by c. An engine sends groups
as long as there are two for each worker, so that g falls with w. ``fixed`` is what is left of the measured rounds. The
printed error is that of a number of workers that the fit has not seen.
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

import numpy as np
import pandas as pd

from benchmarks.compare import told
from benchmarks.contestants.cases import CASES, Task
from benchmarks.contestants.images import write
from fedsim.engines.pace import WORTH_ADDING_UP
from fedsim.messages.groups import GROUP_SIZE

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
    """Of the server's process, for each client whose reply comes alone"""
    grouped: float
    """Of the server's process, for each client whose reply is added up by its worker"""
    fixed: float = 0.0

    def seconds(self, clients: int, workers: int, cores: int | None = None) -> float:
        """Return the seconds of a round; without ``cores`` every process has one of its own."""
        serving, training = self.serving(clients, workers), math.ceil(clients / workers) * self.client
        together = 0.0 if cores is None else (serving + clients * self.client) / cores
        return self.fixed + max(serving, training, together)

    def serving(self, clients: int, workers: int) -> float:
        """Return the seconds of the server's process in a round."""
        share = grouped_share(clients, workers, self.client)
        return clients * (share * self.grouped + (1 - share) * self.server)

    @property
    def most_workers(self) -> float:
        """The number of workers beyond which the server is the bottleneck of a large round."""
        grouped = grouped_share(sys.maxsize, 1, self.client)
        served = self.grouped if grouped else self.server
        return self.client / served if served else math.inf


def grouped_share(clients: int, workers: int, client: float) -> float:
    """Return the share of the clients whose replies workers add up, as ``fedsim/engines/pace.py`` decides it."""
    if client * GROUP_SIZE > WORTH_ADDING_UP:
        return 0.0
    return max(0.0, 1 - 2 * workers * GROUP_SIZE / clients)


def fit(rows: Sequence[Measured], cores: int) -> Costs:
    """Return the costs: of the median processor time, and the mean of the seconds that they leave unexplained.

    What the server spends on replies that come alone and in groups is the line through its times by their shares.
    """
    client = float(np.median([row.training / row.clients for row in rows]))
    shares = [grouped_share(row.clients, row.workers, client) for row in rows]
    served = [row.server / row.clients for row in rows]
    server = grouped = float(np.median(served))
    if len(set(shares)) > 1:
        slope, alone = map(float, np.polyfit(shares, served, 1))
        server, grouped = max(0.0, alone), max(0.0, alone + slope)
    known = Costs(client, server, grouped)
    left = [row.seconds - known.seconds(row.clients, row.workers, cores) for row in rows]
    return Costs(client, server, grouped, max(0.0, sum(left) / len(left)))


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
                    "bound_by": "server" if costs.serving(number, workers) > longest else "workers",
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
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 12])
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
        client, server, grouped = (1000 * seconds for seconds in (costs.client, costs.server, costs.grouped))
        print(
            f"\n{case}, {cores} cores: for each client {client:.2f} ms of a worker and {server:.2f} ms of the server,"
        )
        print(f"or {grouped:.2f} ms if its reply is added up with others; {1000 * costs.fixed:.0f} ms for a round;")
        print(f"beyond {costs.most_workers:.0f} workers the server is the bottleneck of a large round")
        for name, table in (("measured", pd.DataFrame(rows)), ("errors", checked), ("predicted", found)):
            table.to_csv(options.out / f"{case}_{name}.csv", index=False)
        print(checked.round(3).to_string(index=False))
        print(found.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
