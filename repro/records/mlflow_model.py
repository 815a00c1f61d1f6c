"""Logging the readout of a run as an MLflow model, which `mlflow.pyfunc.load_model` loads to score features."""

import os
import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils import environment

from repro.core.hashing import file_sha256
from repro.records.mlflow_artifacts import delete_artifacts, local_path
from repro.records.mlflow_names import MODEL_TAG
from repro.records.record import RunRecord, StoredRun

MODEL_NAME = "readout"
"""Of the model, which `runs:/<run id>/readout` finds, and of the weights among its artifacts."""
EXAMPLE_FRAMES = 1
REQUIRED_PACKAGES = ("actiondiff-repro", "torch", "numpy", "safetensors", "mlflow")
"""What loading the model takes, of the packages that a record names."""


def log_model(
    client: MlflowClient, experiment_id: str, run_id: str, stored: StoredRun, record: RunRecord, *, local: bool
) -> bool:
    """Log the readout of the epoch that a run's protocol selects; returns whether it has one.

    Args:
        client: Of the database or server.
        experiment_id: Of the run's experiment.
        run_id: Of the run, which is logged.
        stored: Where the readout is.
        record: Of the run.
        local: Whether artifacts are folders of this machine, where the weights are linked and take no disk.
    """
    weights = stored.selected_path
    if not weights.is_file():  # of a record that was copied here without it
        return False
    if weights.is_symlink() and file_sha256(weights) != record.checkpoints.get(weights.name):
        return False  # a link to something else, which MLflow would copy
    for other in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        client.delete_logged_model(other.model_id)  # of a killed process
    tags = {"row": record.row, "cell": record.features.cell, "seed": str(record.seed)}
    model = client.create_logged_model(experiment_id, MODEL_NAME, run_id, tags, model_type="readout")
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        about = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
        _save_model(folder, record, about)
        kept = folder / "artifacts" / weights.name
        if not local:
            kept.unlink()
            # A server gets the file itself: MLflow reads through the link as it uploads.
            kept.symlink_to(weights)
        client.log_model_artifacts(model.model_id, str(folder))
    if local:
        # In the workspace, MLflow has copied an empty file, which the weights replace as a hard link.
        _link_file(weights, local_path(model.artifact_location) / "artifacts" / weights.name)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    epoch = (record.best_epoch_on_held_out or record.best_epoch_on_test).epoch
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, epoch)])
    # Last: it tells that the model is complete.
    client.set_tag(run_id, MODEL_TAG, f"models:/{model.model_id}")
    return True


def delete_model(client: MlflowClient, address: str, within: Path | None) -> None:
    """Delete the model whose address MODEL_TAG holds, and its files if they are in the folder `within`."""
    model_id = address.removeprefix("models:/")
    with suppress(MlflowException):  # deleted by its user
        address = client.get_logged_model(model_id).artifact_location
        client.delete_logged_model(model_id)
        if within is not None:
            delete_artifacts(address, within)


def _save_model(folder: Path, record: RunRecord, model: Model) -> None:
    """Save the model with an empty file in place of the weights, which may be hundreds of MB."""
    width, classes = record.features.width, len(record.classes)
    model.metadata = {
        "row": record.row, "cell": record.features.cell, "seed": record.seed, "run": record.run, "classes": list(record.classes),
        "features": record.features.key,
    }  # fmt: skip
    # -1 is any number: clips of a batch, and vectors of a clip.
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, -1, width))]),
        Schema([TensorSpec(np.dtype(np.float64), (-1, classes))]),
    )
    # It looks for every file of every installed package, which takes a second, to warn if this process has other packages than
    # the model takes: those of the training, which this process need not have.
    environment.warn_dependency_requirement_mismatches = lambda model_requirements: None  # type: ignore[attr-defined]
    with TemporaryDirectory() as place, warnings.catch_warnings():
        # It advises type hints, of which it has none for arrays.
        warnings.simplefilter("ignore")
        empty = Path(place) / "selected_epoch.safetensors"
        empty.touch()
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("readout_model.py")),
            artifacts={MODEL_NAME: str(empty)},
            signature=signature,
            input_example=np.zeros((1, EXAMPLE_FRAMES, width), np.float32),
            pip_requirements=[
                # A record of somebody else must not bring lines of its own, such as another index.
                f"{name}=={version}"
                for name, version in record.made.by.items()
                if name in REQUIRED_PACKAGES and re.fullmatch(r"[\w.+!]+", version)
            ],
            mlflow_model=model,
        )


def _link_file(source: Path, target: Path) -> None:
    """Make `target` the file `source` without taking more disk, or a copy where the file system has no links."""
    target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
