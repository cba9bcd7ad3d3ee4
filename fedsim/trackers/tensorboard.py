"""``tracker=tensorboard``: event files in the run directory, which ``tensorboard --logdir outputs`` shows."""

from collections.abc import Mapping
from typing import Any

from fedsim.trackers.tracker import TrackedRun, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """TensorBoard: event files in ``RUN/tensorboard``, with the settings as its hyperparameters.

    A resumed run goes on in the same folder, and what was logged after its checkpoint is no longer shown.
    """

    name = "tensorboard"
    module = "torch.utils.tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._settings: dict[str, bool | int | float | str] = {}
        self._round = 0

    def start(self, run: TrackedRun) -> None:
        purged = run.first_round if run.first_round > 0 else None
        self._writer = self.imported().SummaryWriter(str(run.folder / FOLDER), purge_step=purged)
        self._settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.settings.items()
        }

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._round = round
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def finish(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            # As SummaryWriter.add_hparams, which would put them into a run of their own.
            hparams = self.imported().writer.hparams
            for each in hparams(self._settings, dict(summary)):
                self._writer.file_writer.add_summary(each)
            self.log(self._round, summary)
        self._writer.close()
