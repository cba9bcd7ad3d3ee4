"""``tracker=trackio``: a run of trackio, in its folder on this machine."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from fedsim.trackers.tracker import TrackedRun, Tracker


class Trackio(Tracker):
    """Trackio: a run of the project, which ``trackio show`` shows; ``TRACKIO_DIR`` says where it is stored.

    A resumed run goes on with the same run of trackio; rounds that are made again are logged again.

    Args:
        project: The project.
    """

    name = "trackio"
    module = "trackio"

    def __init__(self, project: str) -> None:
        self.project = project
        self._run: Any = None
        self._round = 0

    def start(self, run: TrackedRun) -> str:
        with redirect_stdout(StringIO()):  # it has much to say, in the place of the run's progress
            self._run = self.imported().init(
                project=self.project,
                name=run.name if run.id is None else run.id,
                config=dict(run.settings),
                resume="never" if run.id is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return str(self._run.name)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._round = round
        self._run.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            self.log(self._round, summary)
        with redirect_stdout(StringIO()):
            self._run.finish()
