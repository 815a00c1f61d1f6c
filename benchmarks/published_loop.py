"""The plain published training loop (the release's scripts/train.py), to which ours is compared in results and time.

One .npy file per clip, every clip padded to max_length, all tokens computed, PyTorch's default AdamW.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from repro.readout.optimisation import compute_loss, learning_rate
from repro.readout.recipe import CrossEntropy, Recipe

Item = tuple[Tensor, Tensor, Tensor]


class PaddedClips(Dataset[Item]):
    """Padded features, a mask that is True at the clip's own frames, and targets."""

    def __init__(self, files: Sequence[Path], targets: Tensor, max_length: int) -> None:
        self.files, self.targets, self.max_length = files, targets, max_length

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Item:
        features = torch.from_numpy(np.load(self.files[number])).float()[: self.max_length]
        length = len(features)
        if length < self.max_length:
            features = torch.cat([features, torch.zeros(self.max_length - length, features.shape[1])])
        return features, torch.arange(self.max_length) < length, self.targets[number]


def save_clips(features: Iterable[Tensor], folder: Path) -> list[Path]:
    """Write one .npy file per clip; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, own in enumerate(features):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], own.numpy())
    return files


def sample_mixup(
    alpha: float, batches: Iterable[Sequence[int]], generator: np.random.Generator
) -> Iterator[tuple[float, Tensor]]:
    """Sample mixup's lambda and the partners of each batch."""
    for batch in batches:
        share = float(generator.beta(alpha, alpha)) if alpha > 0 else 1.0
        yield share, torch.from_numpy(generator.permutation(len(batch)))


def train_padded_epoch(
    model: nn.Module,
    loader: DataLoader[Item],
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    mixed: Iterator[tuple[float, Tensor]],
) -> float:
    """Take one step per padded batch; returns the mean loss of the batches."""
    model.train()
    total = 0.0
    for (features, valid, targets), (share, partner) in zip(loader, mixed, strict=True):
        # Features and targets are mixed, the padding mask is not (docs/deviations.md 6).
        features = share * features + (1 - share) * features[partner]
        targets = share * targets + (1 - share) * targets[partner]
        optimizer.zero_grad()
        value = compute_loss(recipe.loss, model(features, valid), targets)
        value.backward()
        optimizer.step()
        scheduler.step()
        total += value.item()
    return total / len(loader)


@torch.no_grad()
def predict_padded(model: nn.Module, loader: DataLoader[Item], recipe: Recipe) -> np.ndarray:
    """Compute the class probabilities of every clip, from padded batches."""
    model.eval()
    # float64 as in repro/readout/train.py: in fp32 large logits would round to equal scores.
    logits = torch.cat([model(features, valid) for features, valid, _ in loader]).double()
    return (logits.softmax(1) if isinstance(recipe.loss, CrossEntropy) else logits.sigmoid()).numpy()


def build_optimizer(
    model: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Build AdamW and its learning rate schedule, with `steps` steps per epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # LambdaLR multiplies the optimizer's rate, so the peak passed here is 1.
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, steps, recipe.epochs, recipe.warmup_epochs, 1.0)
    )
    return optimizer, scheduler
