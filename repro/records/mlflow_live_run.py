"""The MLflow run of a training that has no record yet. It becomes the record's run."""

from dataclasses import dataclass
from functools import cached_property

from mlflow import MlflowClient
from mlflow.entities import Metric

from repro.records.mlflow_database import (
    BATCH,
    LogRequest,
    find_experiment,
    find_tagged_run,
    open_client,
    read_losses,
)
from repro.records.mlflow_names import (
    LIVE_TAG,
    MLFLOW_PARENT_TAG,
    PARENT_TAG,
    UNRECORDED_TAG,
    name_experiment,
    parent_key,
    table_of,
)
from repro.records.mlflow_run import (
    describe_parent,
    list_epoch_metrics,
    list_inputs,
    list_params,
    list_run_tags,
    list_tags,
    parent_name,
    run_name,
)
from repro.records.training_log import StartedRun, TrainingLog

MACHINE_PARAMS = ("version.", "machine.")
"""Params that another machine may change, on which a training resumes. MLflow changes none, so the record logs them."""


@dataclass(frozen=True)
class LiveRun:
    """A training in MLflow.

    Args:
        request: Where it is shown.
        log: Its log, which says what was started.
    """

    request: LogRequest
    log: TrainingLog

    @property
    def started(self) -> StartedRun:
        assert self.log.started is not None
        return self.log.started

    @cached_property
    def _client(self) -> MlflowClient:
        tracking = self.request.tracking
        return MlflowClient(tracking.uri) if tracking.uri else open_client(self.request.workspace)

    def open_run(self) -> tuple[str, set[int]]:
        """Find the training's run, or create it; returns its id and the numbers of the epochs that it has."""
        client = self._client
        name = name_experiment(self.request.tracking, table_of(self.started))
        experiment = find_experiment(client, name, self.request)
        # By the log's token, not by the run's key: two workspaces may train one run on one server.
        found = find_tagged_run(client, experiment, LIVE_TAG, self.log.token)
        if found is None:
            parent = self._open_parent(experiment)
            tags = list_run_tags(self.started, parent) | {LIVE_TAG: self.log.token}
            run = client.create_run(experiment, self.log.start, tags, run_name(self.started)).info.run_id
            # MLflow refuses another value of a param that it has: what a resumed training may change is logged with
            # the record.
            params = [param for param in list_params(self.started) if not param.key.startswith(MACHINE_PARAMS)]
            client.log_batch(run, params=params)
            client.log_inputs(run, list_inputs(self.started))
            return str(run), set()
        if found.info.status != "RUNNING":  # killed, and resumed
            client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id), set(read_losses(client, found.info.run_id))

    def _open_parent(self, experiment: str) -> str:
        found = find_tagged_run(self._client, experiment, PARENT_TAG, parent_key(self.started))
        if found is None:
            tags = list_tags(self.started) | {
                PARENT_TAG: parent_key(self.started),
                "mlflow.note.content": describe_parent(self.started),
            }
            found = self._client.create_run(experiment, self.log.start, tags, parent_name(self.started))
        return str(found.info.run_id)

    def send_epochs(self, run: str, sent: set[int]) -> None:
        """Send the epochs that are not in `sent`, and add them."""
        metrics: list[Metric] = []
        news = sorted(self.log.epochs.keys() - sent)
        for number in news:
            epoch = self.log.epochs[number]
            found = list_epoch_metrics(epoch.result, epoch.at, epoch.system)
            # Epochs are never divided: one that has its loss there has all.
            if len(metrics) + len(found) > BATCH:
                self._client.log_batch(run, metrics=metrics)
                metrics = []
            metrics += found
        if metrics:
            self._client.log_batch(run, metrics=metrics)
        sent |= set(news)

    def finish_run(self, run: str) -> None:
        """Mark the run as finished. Its record is logged when the other trainings of the command have ended."""
        self._client.set_tag(run, UNRECORDED_TAG, "yes")
        self._client.set_terminated(run, end_time=self._last_time)

    @property
    def _last_time(self) -> int:
        return max([self.log.start, *(epoch.at for epoch in self.log.epochs.values())])

    def end_run(self, run: str) -> None:
        """Mark the run as failed or killed, at the time of the last thing that the log has."""
        end = self._last_time
        if self.log.failed:
            self._client.set_tag(run, "failed", self.log.failed[:500])
        status = "FAILED" if self.log.failed else "KILLED"
        self._client.set_terminated(run, status, end)
        # A parent that has finished stays so; other trainings under this one finish it.
        parent = self._client.get_run(self._client.get_run(run).data.tags[MLFLOW_PARENT_TAG])
        if parent.info.status == "RUNNING":
            self._client.set_terminated(parent.info.run_id, status, end)

    def end_if_running(self) -> None:
        """Mark the run as failed or killed, if there is one that MLflow takes for running."""
        experiment = self._client.get_experiment_by_name(name_experiment(self.request.tracking, table_of(self.started)))
        if experiment is None or experiment.lifecycle_stage != "active":
            return
        found = find_tagged_run(self._client, str(experiment.experiment_id), LIVE_TAG, self.log.token)
        if found is not None and found.info.status == "RUNNING":
            self.end_run(found.info.run_id)
