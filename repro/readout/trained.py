"""A trained readout, loaded from its checkpoint to score new clips."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from pydantic import ValidationError

from repro.core.errors import MissingError, state_reason
from repro.readout.checkpoints import DamagedCheckpointError, read_tensors
from repro.readout.heads import Head, build_head
from repro.readout.recipe import Recipe
from repro.readout.train import activate_logits


@dataclass(frozen=True, slots=True)
class Readout:
    """A model with what its checkpoint says of it."""

    model: Head
    recipe: Recipe
    classes: tuple[str, ...]
    width: int
    row: str
    backbone: str
    cell: str
    """Name of the cell (timestep and layer) whose features it reads."""
    features: str
    """Content key of the features it was trained on."""
    seed: int
    epoch: int

    @torch.inference_mode()
    def score(self, features: Float32[np.ndarray, "T C"]) -> Float64[np.ndarray, " K"]:
        """Compute the class probabilities of one clip; frames after the recipe's max_length are ignored.

        Raises:
            MissingError: the features have another width, are empty or not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise MissingError(f"features of shape {features.shape}: this readout reads frames of width {self.width}")
        if not len(features) or not np.isfinite(features).all():
            raise MissingError(f"features of {len(features)} frames: empty, or not finite")
        # A copy, because stored features may be mapped read-only from their file.
        sequence = torch.from_numpy(np.array(features[: self.recipe.max_length], np.float32))
        device = next(self.model.parameters()).device
        valid = torch.ones(1, len(sequence), dtype=torch.bool, device=device)
        logits = self.model.eval()(sequence[None].to(device), valid).float().cpu()
        scores: Float64[np.ndarray, " K"] = activate_logits(logits, self.recipe)[0]
        return scores


def load_readout(path: Path, device: str = "cpu") -> Readout:
    """Load a run's selected_epoch.safetensors or last_epoch.safetensors.

    Raises:
        MissingError: the file is missing, damaged, or not the checkpoint of a readout.
    """
    try:
        tensors, about = read_tensors(path)
        # "asked" is what describe_training returned; the other keys are those of CheckpointFolder.about.
        recipe = Recipe.model_validate(about["asked"]["recipe"])
        classes = tuple(about["class_names"])
        width = int(about["asked"]["width"])
        model = build_head(recipe, width, len(classes))
        # Refuses tensors of other names or shapes with a RuntimeError, caught below.
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
        raise MissingError(f"{path}: not the checkpoint of a readout ({state_reason(error, 120)})") from error
