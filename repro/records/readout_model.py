"""A trained readout as an MLflow model. MLflow copies this file next to the weights and executes it where the model is loaded.

It takes this package there, and unpickles nothing: the weights are safetensors (repro/readout/trained.py).
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ReadoutModel(PythonModel):
    """Scores the features of clips."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights."""
        # Here, because logging the model executes this file too and need not import torch.
        from repro.readout.trained import load_readout

        self.readout = load_readout(Path(context.artifacts["readout"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Compute the class probabilities of clips.

        Args:
            context: Unused: load_context has read it.
            model_input: Features, float32 of shape [B, T, C]. A clip with fewer frames than others ends in frames of NaN.
            params: Unused.

        Returns:
            Float64 of shape [B, K].

        Raises:
            MissingError: the features have another width, are empty, or not finite before such an end.
        """
        return np.stack([self.readout.score(_cut_padding(clip)) for clip in model_input])


def _cut_padding(clip: np.ndarray) -> np.ndarray:
    frames = np.flatnonzero(~np.isnan(clip).all(axis=1))
    return clip[: frames[-1] + 1] if len(frames) else clip


mlflow.models.set_model(ReadoutModel())
