"""The readout is the release's, learns what there is to learn, and repeats."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from repro.errors import MissingError
from repro.readout import losses
from repro.readout.schedule import learning_rate
from repro.readout.sequences import Sequences
from repro.readout.train import predict, train
from repro.readout.transformer import ClassificationTransformer
from repro.rows import Bce, CrossEntropy, Focal, Recipe


def recipe(**changes: object) -> Recipe:
    values: dict[str, object] = {
        "loss": Focal(name="focal", alpha=0.25, gamma=2.0),
        "epochs": 8,
        "warmup_epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "mixup": 0.2,
        "batch_size": 8,
        "max_length": 20,
        "layers": 1,
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def kit(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "parity" / "readout" / "transformer.safetensors")


def test_logits_are_the_releases(kit: dict[str, torch.Tensor]) -> None:
    model = ClassificationTransformer(48, 7, recipe(layers=3)).eval()
    model.load_state_dict({name.removeprefix("weights/"): t for name, t in kit.items() if name.startswith("weights/")})
    with torch.inference_mode():
        logits = model(kit["features"], kit["mask"].bool())
    assert float((logits - kit["logits"]).abs().max()) < 1e-6


def test_losses_are_the_releases(kit: dict[str, torch.Tensor]) -> None:
    logits, targets = kit["logits"], kit["targets"]
    one_hot = functional.one_hot(targets.argmax(1), 7).float()
    for name, value in {
        "loss/focal_alpha0.25_gamma2": losses.loss(Focal(name="focal", alpha=0.25, gamma=2.0), logits, targets),
        "loss/focal_alpha1_gamma2": losses.loss(Focal(name="focal", alpha=1.0, gamma=2.0), logits, targets),
        "loss/bce": losses.loss(Bce(name="bce"), logits, targets),
        "loss/ce_soft": losses.loss(CrossEntropy(name="cross_entropy"), logits, one_hot),
    }.items():
        assert value.item() == pytest.approx(kit[name].item(), abs=1e-6)


def test_the_learning_rate_is_the_releases(kit: dict[str, torch.Tensor]) -> None:
    golden = kit["schedule/lr_warmup4_epochs15_steps10_base1e-4"]
    ours = [learning_rate(step, 10, 15, 4, 1e-4) for step in range(150)]
    np.testing.assert_allclose(ours, golden.numpy(), rtol=0, atol=1e-12)


def planted(clips: int, shift: float, seed: int, permuted: bool = False) -> Sequences:
    """Sequences of different lengths whose class is a direction in feature space, moved by a domain shift."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(clips) % 4
    features = []
    for label in labels:
        length = int(torch.randint(2, 15, (1,), generator=draw))
        features.append(2 * directions[label] + shift + torch.randn(length, 16, generator=draw))
    if permuted:
        labels = labels[torch.randperm(clips, generator=draw)]
    from collections import Counter

    return Sequences(
        tuple(str(n) for n in range(clips)), tuple(features), functional.one_hot(labels, 4).float(), Counter()
    )


@pytest.mark.parametrize("loss", [Focal(name="focal", alpha=1.0, gamma=2.0), CrossEntropy(name="cross_entropy")])
def test_it_learns_planted_features_across_a_domain_shift(loss: Focal | CrossEntropy) -> None:
    outcome = train(planted(96, 0.0, 1), planted(64, 0.3, 2), recipe(loss=loss), seed=3)
    assert outcome.epochs[-1].scores["top1"] > 0.9
    assert outcome.epochs[-1].train_loss < outcome.epochs[0].train_loss


def test_it_learns_nothing_from_permuted_labels() -> None:
    outcome = train(planted(96, 0.0, 1, permuted=True), planted(64, 0.3, 2), recipe(), seed=3)
    assert abs(outcome.epochs[-1].scores["top1"] - 0.25) < 0.2


def test_the_same_seed_gives_the_same_readout_and_another_gives_another() -> None:
    first, second, other = (train(planted(24, 0.0, 1), planted(16, 0.3, 2), recipe(), seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.predictions[-1], second.predictions[-1])
    assert not np.array_equal(first.predictions[-1], other.predictions[-1])


def test_training_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(planted(8, 0.0, 1), planted(8, 0.0, 2), recipe(epochs=1), seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_padding_does_not_reach_the_logits() -> None:
    split = planted(12, 0.0, 1)
    model = ClassificationTransformer(16, 4, recipe()).eval()
    together = predict(model, split, recipe(batch_size=12))
    alone = predict(model, split, recipe(batch_size=1))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_mixup_keeps_each_clips_own_mask() -> None:
    """The released quirk: a longer partner's tail is mixed into frames that stay masked, so it changes nothing."""
    from repro.readout.train import _mixed

    features = torch.zeros(2, 5, 3)
    features[1] = 1.0
    swapping = next(seed for seed in range(20) if _swaps(seed))
    mixed, soft = _mixed(features, torch.eye(2), np.random.default_rng(swapping), 0.2)
    share = float(soft[0, 0])
    assert 0 < share < 1
    assert torch.allclose(soft, torch.tensor([[share, 1 - share], [1 - share, share]]))
    assert torch.allclose(mixed[0], torch.full((5, 3), 1 - share))
    assert torch.allclose(mixed[1], torch.full((5, 3), share))


def _swaps(seed: int) -> bool:
    draw = np.random.default_rng(seed)
    draw.beta(0.2, 0.2)
    return bool(draw.permutation(2)[0] == 1)


def test_a_loss_that_is_no_number_stops_training() -> None:
    broken = planted(8, math.nan, 1)
    with pytest.raises(MissingError, match=r"training stopped in epoch 1, step 1: the loss is nan"):
        train(broken, planted(8, 0.0, 2), recipe(), seed=1)


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(MissingError, match="width 16 cannot be read by 5 heads"):
        train(planted(8, 0.0, 1), planted(8, 0.0, 2), recipe(heads=5), seed=1)
