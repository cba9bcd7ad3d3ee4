"""fedsim with the settings of ``run.py``, and ``fedsim_lean``: without checkpoints, pictures and evaluation.

``run.py`` does the same in the same order, but for the line that it prints for each round, in whose place the clock is
read.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import images
from benchmarks.contestants.cases import BATCH_SIZE, LEARNING_RATE, Task
from benchmarks.contestants.record import Record
from fedsim.config.composition import compose
from fedsim.core import collector
from fedsim.engines import fork_server
from fedsim.output.progress import Reporter

if TYPE_CHECKING:
    from datasets.federation import Federation


class Clock(Reporter):
    """Notes the ends of rounds, and counts clients that have trained."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.clients: list[int] = []

    def cohort(self, round: int, clients: int) -> None:
        self.clients.append(0)

    def client_done(self) -> None:
        self.clients[-1] += 1

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        if 0 < round <= self.record.rounds:  # round 0 is the model before training
            self.record.round_done()


def words(task: Task) -> list[str]:
    case, folder = task.what, task.data / "runs"
    folder.mkdir(exist_ok=True)
    split = ("domain",) if case.evaluates else ("iid", f"split.num_clients={case.clients}")
    given = [
        *("dataset=tensors", f"dataset.function={images.__name__}.load", f"split={split[0]}", *split[1:]),
        *("model=cnn_small", f"model._target_={case.network}", f"fraction={case.cohort / case.clients}"),
        *(f"rounds={task.rounds}", f"batch_size={BATCH_SIZE}", f"lr={LEARNING_RATE}", f"seed={task.seed}"),
        *(f"engine.workers={task.workers}", "device=cpu", f"out_dir={folder}/{os.getpid()}"),
    ]
    if task.contestant == "fedsim_lean":
        # The last model is always evaluated. One more round than is measured leaves that out.
        given += [f"rounds={task.rounds + 1}", "checkpoint_every=0", "pictures=false"]
        given += [] if case.evaluates else [f"evaluate_every={task.rounds + 1}"]
    return given


def images_of(federation: "Federation", clients: int) -> int:
    """Return the images that so many clients train, all of which have equally many."""
    from datasets.source import Part

    (each,) = {federation.num_images(client, Part.TRAIN) for client in federation.clients}
    return each * clients


def main(task: Task, record: Record) -> None:
    os.environ[images.VARIABLE] = task.folder
    if task.what.evaluates:
        os.environ[images.DOMAINS] = str(task.what.clients)
    overrides = words(task)
    config = compose(overrides)
    fork_server.start_early([config["engine"]])

    with collector.paused():
        # As in run.py, these import torch while the fork server does.
        from fedsim.config.settings import settings_of
        from fedsim.server.preparation import prepare
        from fedsim.server.simulation import run

        prepared = prepare(settings_of(config, overrides))
    clock = Clock(record)
    result = run(prepared, Path(prepared.settings.out_dir or ""), clock)
    losses = result.rounds["train_loss"].iloc[1 : task.rounds + 1]
    record.finish([images_of(prepared.federation, done) for done in clock.clients[: task.rounds]], losses.tolist())
