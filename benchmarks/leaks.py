"""Memory, open files and threads of a run of very many rounds: they must not grow.

    python benchmarks/leaks.py --rounds 10000 --csv leaks.csv --picture leaks.png engine=process

Measured are the run's own process and its workers, every hundredth round, without the pages of files. The first tenth
of the rounds is a warm-up; after it the memory of the last tenth may be at most two percent above that of the second.
The numbers of files and threads may be at most a quarter higher in the second half than in the first: a reply whose
memory has not been collected yet keeps a file open, so that their number goes up and down. At the end no child process
may be left, and no file in the folder for temporary files.
The exit status is 1 if something has grown or is left.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.util import get_temp_dir
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.processes import NO_FILES, PROC, Process, memory_kb, running
from fedsim.config.composition import compose
from fedsim.config.settings import settings_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run

TINY = (
    *("model._target_=benchmarks.contestants.networks.OneLayer", "split.leave_out=[texture,street,font]"),
    *("dataset.train_per_domain=8", "dataset.test_per_domain=8", "device=cpu", "pictures=false"),
    *("evaluate_every=100", "checkpoint_every=100"),
)
"""Three clients of eight images and one layer; settings that those of the command line change."""
EVERY = 100
ALLOWED, ALLOWED_COUNT = 1.02, 1.25


def family() -> list[Process]:
    """This process and what comes of it."""
    found, known = running(), {os.getpid()}
    for _ in range(4):  # the fork server, its workers
        known |= {process.number for process, reading in found.items() if reading.parent in known}
    return [process for process in found if process.number in known]


def count(processes: Sequence[Process], what: str) -> int:
    return sum(len(list((PROC / str(process.number) / what).iterdir())) for process in processes)


@dataclass
class Watching(Reporter):
    """Reads the family's memory, files and threads at the end of every hundredth round."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def round_done(self, round: int, metrics: object) -> None:
        if round % EVERY == 0:
            processes = family()
            memory = sum(memory_kb(each, NO_FILES) for each in processes) / 1024
            files, threads = count(processes, "fd"), count(processes, "task")
            self.rows.append({"round": round, "memory_mb": memory, "open_files": files, "threads": threads})


def grown(table: pd.DataFrame) -> list[str]:
    """What has grown, in words."""
    tenth = max(1, len(table) // 10)
    second, last = table[tenth : 2 * tenth], table[-tenth:]
    found = []
    before, after = second["memory_mb"].mean(), last["memory_mb"].mean()
    if after > ALLOWED * before:
        found.append(f"memory: {before:.1f} MB in the second tenth of the rounds, {after:.1f} MB in the last")
    half = len(table) // 2
    first, other = table[tenth:half], table[half:]
    return found + [
        f"{what}: {first[what].max()} in the first half of the rounds, {other[what].max()} in the second"
        for what in ("open_files", "threads")
        if other[what].max() > ALLOWED_COUNT * first[what].max()
    ]


def left(temporary: Path) -> list[str]:
    """What is left after a run, in words: the fork server and the resource tracker serve later runs."""
    serving = ("forkserver", "resource_tracker")
    words = {
        process.number: (PROC / str(process.number) / "cmdline").read_text().replace("\0", " ")
        for process in family()
        if process.number != os.getpid()
    }
    processes = [f"process {number}: {line}" for number, line in words.items() if not any(s in line for s in serving)]
    files = [str(path) for path in temporary.rglob("*") if path.is_file()]
    return processes + files


def draw(table: pd.DataFrame, path: Path) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(table["round"], table["memory_mb"])
    above.set(ylabel="memory (MB)", ylim=(0, 1.2 * table["memory_mb"].max()))
    below.plot(table["round"], table["open_files"], label="open files")
    below.plot(table["round"], table["threads"], label="threads")
    below.set(xlabel="round", ylabel="of all processes", ylim=(0, 1.2 * table["open_files"].max()))
    below.legend(loc="center right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--csv", type=Path, help="where the measurements are written")
    parser.add_argument("--picture", type=Path, help="where they are drawn")
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    watching = Watching()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "temporary")
        temporary.mkdir()
        get_temp_dir()  # the fork server's own, which stays until this process ends
        tempfile.tempdir = str(temporary)
        words = [*TINY, f"rounds={options.rounds}", *overrides]
        run(prepare(settings_of(compose(words), words)), Path(folder, "run"), watching)
        faults = left(temporary)
        tempfile.tempdir = None
    table = pd.DataFrame(watching.rows)
    print(table.iloc[:: max(1, len(table) // 10)].round(1).to_string(index=False))
    faults += grown(table[table["round"] > 0])
    if options.csv:
        table.to_csv(options.csv, index=False)
    if options.picture:
        draw(table, options.picture)
    print("\n".join(faults) or "nothing has grown, and nothing is left")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
