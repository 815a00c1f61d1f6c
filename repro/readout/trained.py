"""A trained readout, loaded from its checkpoint to score clips it has never seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from pydantic import ValidationError

from repro.core.errors import MissingError
from repro.readout.checkpoints import DamagedCheckpointError, read_tensors
from repro.readout.heads import Head, new_head
from repro.readout.recipe import Recipe
from repro.readout.train import probabilities


@dataclass(frozen=True, slots=True)
class Readout:
    model: Head
    recipe: Recipe
    classes: tuple[str, ...]
    width: int
    row: str
    backbone: str
    cell: str
    """Which of the backbone's features it reads."""
    features: str
    """Key of the features it was trained on."""
    seed: int
    epoch: int

    @torch.inference_mode()
    def score(self, features: Float32[np.ndarray, "T C"]) -> Float64[np.ndarray, " K"]:
        """Probabilities of the classes for one clip; frames behind max_length are not read.

        Raises:
            MissingError: features of another width, empty, or not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise MissingError(f"features of shape {features.shape}: this readout reads frames of width {self.width}")
        if not len(features) or not np.isfinite(features).all():
            raise MissingError(f"features of {len(features)} frames: empty, or not finite")
        own = torch.from_numpy(np.array(features[: self.recipe.max_length], np.float32))
        device = next(self.model.parameters()).device
        logits = self.model.eval().packed(own.to(device), [len(own)]).float().cpu()
        scores: Float64[np.ndarray, " K"] = probabilities(logits, self.recipe)[0]
        return scores


def load_readout(path: Path, device: str = "cpu") -> Readout:
    """Read a checkpoint that read_out wrote: selected_epoch.safetensors or last_epoch.safetensors of a run.

    Raises:
        MissingError: not there, damaged, or not a readout's.
    """
    try:
        tensors, about = read_tensors(path)
        recipe = Recipe.model_validate(about["asked"]["recipe"])
        classes = tuple(about["class_names"])
        width = int(about["asked"]["width"])
        model = new_head(recipe, width, len(classes))
        model.load_state_dict(tensors)
        return Readout(
            model=model.to(device).eval(),
            recipe=recipe,
            classes=classes,
            width=width,
            row=about["row"],
            backbone=about["backbone"],
            cell=about["cell"],
            features=about["features"],
            seed=about["asked"]["seed"],
            epoch=about["epoch"],
        )
    except FileNotFoundError as error:
        raise MissingError(f"{path}: no trained readout there: `repro readout ROW` trains one") from error
    except DamagedCheckpointError as error:
        raise MissingError(f"{error}: move it away with its record.json and train it again") from error
    except (KeyError, TypeError, ValueError, RuntimeError, ValidationError) as error:
        raise MissingError(f"{path}: not the checkpoint of a readout ({' '.join(str(error).split())[:120]})") from error
