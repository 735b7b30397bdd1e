"""MLflow: one run there for all attempts of a run. I/O.

Its own variables apply: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_TOKEN. Without an address the run
is stored in files in its own folder.
"""

import os
from typing import Any

from scalerl_runtime.trackers.interface import TrackedPoint, TrackedRun, Values

EXPERIMENT = "scalerl"
RUN_TAG = "scalerl.id"  # finds the run of earlier attempts
MAX_PARAMETER = 500  # characters; older servers refuse longer ones
MAX_BATCH = 100  # parameters in a request


class MlflowTracker:
    """The tracker `mlflow`."""

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        # MLflow asks for a database instead of files; a folder needs no package, and the run can be read anywhere.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or run.folder.absolute().as_uri()
        self._client = client = MlflowClient(tracking_uri=address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else client.create_experiment(name)
        earlier = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        self._id = client.create_run(experiment, run_name=run.name, tags={RUN_TAG: run.id}).info.run_id
        parameters = [Param(key, str(value)[:MAX_PARAMETER]) for key, value in run.config.items()]
        for start in range(0, len(parameters), MAX_BATCH):
            client.log_batch(self._id, params=parameters[start : start + MAX_BATCH])

    def log(self, point: TrackedPoint) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        milliseconds = int(point.seconds * 1000)
        metrics = [
            Metric(f"{point.series}/{name}", value, milliseconds, point.step) for name, value in point.values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, summary: Values, *, is_final: bool) -> None:
        """See `Tracker`."""
        for key, value in summary.items():
            self._client.set_tag(self._id, f"summary.{key}", str(value))
        self._client.set_terminated(self._id, status="FINISHED" if is_final else "KILLED")
