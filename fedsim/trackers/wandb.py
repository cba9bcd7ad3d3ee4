"""``tracker=wandb``: a run of Weights & Biases, on this machine until it is sent there."""

from collections.abc import Mapping
from typing import Any

from fedsim.core.errors import UserError
from fedsim.trackers.tracker import TrackedRun, Tracker

MODES = ("offline", "online")


class WandB(Tracker):
    """Weights & Biases: a run of the project, with the settings as its config.

    Offline it is written to ``RUN/wandb``, and ``wandb sync RUN/wandb/offline-run-*`` sends it. A resumed run has the
    same id, under which what is sent becomes one run.

    Args:
        project: The project.
        mode: ``offline``, or ``online`` with an account (``wandb login``).

    Raises:
        UserError: If the mode is another.
    """

    name = "wandb"
    module = "wandb"

    def __init__(self, project: str, mode: str) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode} is not known: choose {' or '.join(MODES)}.")
        self.project, self.mode = project, mode
        self._run: Any = None

    def start(self, run: TrackedRun) -> str:
        wandb = self.imported()
        self._run = wandb.init(
            project=self.project,
            name=run.name,
            id=run.id,
            resume=None if run.id is None else "allow",
            mode=self.mode,
            dir=str(run.folder),
            config=dict(run.settings),
            reinit="create_new",  # a sweep has several runs in one process
            settings=wandb.Settings(silent=True, console="off"),
        )
        return str(self._run.id)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            self._run.summary.update(dict(summary))
        self._run.finish(exit_code=1 if summary is None else 0)
