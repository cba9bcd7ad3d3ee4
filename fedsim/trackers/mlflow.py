"""``tracker=mlflow``: a run of an MLflow experiment, in MLflow's own database or on its server."""

import re
import time
from collections.abc import Mapping
from typing import Any

from fedsim.trackers.tracker import TrackedRun, Tracker

LONGEST = 6000
"""The longest value of a parameter."""
AT_ONCE = 1000
"""The most metrics of one call; of parameters it is a tenth."""
_NOT_ALLOWED = re.compile(r"[^\w\-./: ]", re.ASCII)
"""What MLflow refuses in names, such as letters of a domain's."""


class MLflow(Tracker):
    """MLflow: a run of the experiment ``project``, with the settings as parameters.

    A resumed run goes on with the same run of MLflow; rounds that are made again are logged again.

    Args:
        project: The experiment.
        uri: Where MLflow stores: ``sqlite:////FOLDER/mlflow.db`` or the address of a server. Null: as
            ``MLFLOW_TRACKING_URI`` says, else ``mlflow.db`` in the current folder.
    """

    name = "mlflow"
    module = "mlflow"

    def __init__(self, project: str, uri: str | None) -> None:
        self.project, self.uri = project, uri
        self._client: Any = None
        self._run = ""
        self._round = 0

    def start(self, run: TrackedRun) -> str:
        mlflow = self.imported()
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        if run.id is not None:
            self._run = run.id
            self._client.update_run(run.id, status="RUNNING")
            return self._run
        found = self._client.get_experiment_by_name(self.project)
        experiment = self._client.create_experiment(self.project) if found is None else found.experiment_id
        self._run = self._client.create_run(experiment, run_name=run.name).info.run_id
        param = mlflow.entities.Param
        params = [param(_named(name), str(value)[:LONGEST]) for name, value in run.settings.items()]
        for first in range(0, len(params), AT_ONCE // 10):
            self._client.log_batch(self._run, params=params[first : first + AT_ONCE // 10])
        return self._run

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._round = round
        now, metric = int(1000 * time.time()), self.imported().entities.Metric
        found = [metric(_named(name), value, now, round) for name, value in metrics.items()]
        for first in range(0, len(found), AT_ONCE):
            self._client.log_batch(self._run, metrics=found[first : first + AT_ONCE])

    def finish(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            self.log(self._round, summary)
        self._client.set_terminated(self._run, "FAILED" if summary is None else "FINISHED")


def _named(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)
