"""The readout equals the release's, learns planted features and nothing from noise, and is reproducible."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.planted import planted, recipe
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn import functional

from repro.core.errors import MissingError, UsageError
from repro.readout.checkpoints import TrainingData
from repro.readout.compute import Compute
from repro.readout.heads import ClassificationTransformer, build_head
from repro.readout.optimisation import compute_loss, learning_rate
from repro.readout.recipe import Bce, CrossEntropy, Focal
from repro.readout.sequences import Batch, BatchPlan, Sequences, plan_epoch
from repro.readout.stack import HeadStack
from repro.readout.train import predict_probabilities, train_readout
from repro.table.rows import load_row

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def kit(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "parity" / "readout" / "transformer.safetensors")


def test_logits_equal_the_releases(kit: dict[str, torch.Tensor]) -> None:
    model = ClassificationTransformer(48, 7, recipe(layers=3)).eval()
    model.load_state_dict({name.removeprefix("weights/"): t for name, t in kit.items() if name.startswith("weights/")})
    with torch.inference_mode():
        logits = model(kit["features"], kit["mask"].bool())
    assert float((logits - kit["logits"]).abs().max()) < 1e-6


def test_losses_equal_the_releases(kit: dict[str, torch.Tensor]) -> None:
    logits, targets = kit["logits"], kit["targets"]
    one_hot = functional.one_hot(targets.argmax(1), 7).float()
    for name, value in {
        "loss/focal_alpha0.25_gamma2": compute_loss(Focal(name="focal", alpha=0.25, gamma=2.0), logits, targets),
        "loss/focal_alpha1_gamma2": compute_loss(Focal(name="focal", alpha=1.0, gamma=2.0), logits, targets),
        "loss/bce": compute_loss(Bce(name="bce"), logits, targets),
        "loss/ce_soft": compute_loss(CrossEntropy(name="cross_entropy"), logits, one_hot),
    }.items():
        assert value.item() == pytest.approx(kit[name].item(), abs=1e-6)


def test_the_learning_rate_equals_the_releases(kit: dict[str, torch.Tensor]) -> None:
    golden = kit["schedule/lr_warmup4_epochs15_steps10_base1e-4"]
    ours = [learning_rate(step, 10, 15, 4, 1e-4) for step in range(150)]
    np.testing.assert_allclose(ours, golden.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [Focal(name="focal", alpha=1.0, gamma=2.0), CrossEntropy(name="cross_entropy")])
def test_it_learns_planted_features_across_a_domain_shift(loss: Focal | CrossEntropy) -> None:
    outcome = train_readout(TrainingData(planted(96, 0.0, 1), planted(64, 0.3, 2)), recipe(loss=loss), seed=3)
    assert outcome.epochs[-1].scores["top1"] > 0.9
    assert outcome.epochs[-1].train_loss < outcome.epochs[0].train_loss


def test_it_learns_nothing_from_permuted_labels() -> None:
    outcome = train_readout(TrainingData(planted(96, 0.0, 1, permuted=True), planted(64, 0.3, 2)), recipe(), seed=3)
    assert abs(outcome.epochs[-1].scores["top1"] - 0.25) < 0.2


def test_the_same_seed_gives_the_same_readout_and_another_gives_another() -> None:
    first, second, other = (
        train_readout(TrainingData(planted(24, 0.0, 1), planted(16, 0.3, 2)), recipe(), seed=s) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.predictions[-1], second.predictions[-1])
    assert not np.array_equal(first.predictions[-1], other.predictions[-1])


def test_training_restores_the_callers_random_state() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train_readout(TrainingData(planted(8, 0.0, 1), planted(8, 0.0, 2)), recipe(epochs=1), seed=3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("head", ["transformer", "linear"])
def test_packed_clips_get_the_logits_of_padded_ones(head: str) -> None:
    split = planted(12, 0.0, 1)
    asked = recipe(head=head, layers=0 if head == "linear" else 2)
    model = build_head(asked, 16, 4).eval()
    batch = split.make_batch(BatchPlan(tuple(range(12))))
    padded, valid = torch.zeros(12, 20, 16), torch.zeros(12, 20, dtype=torch.bool)
    for n, own in enumerate(split.features):
        padded[n, : len(own)], valid[n, : len(own)] = own, True
    expected = model(padded, valid)
    stack = HeadStack.of_heads([model], asked)
    got = stack.compute_logits([batch])[0]
    assert float((got - expected).detach().abs().max()) < 1e-6
    weights = torch.randn(expected.shape)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(stack.weights[name].grad[0], parameter.grad, rtol=1e-4, atol=1e-5)


def test_packed_logits_equal_the_releases(kit: dict[str, torch.Tensor]) -> None:
    model = ClassificationTransformer(48, 7, recipe(layers=3)).eval()
    model.load_state_dict({name.removeprefix("weights/"): t for name, t in kit.items() if name.startswith("weights/")})
    own = [f[m.bool()] for f, m in zip(kit["features"], kit["mask"], strict=True)]
    with torch.inference_mode():
        batch = Batch(torch.cat(own), tuple(len(f) for f in own), kit["targets"])
        logits = HeadStack.of_heads([model], recipe(layers=3)).compute_logits([batch])[0]
    assert float((logits - kit["logits"]).abs().max()) < 1e-6


@pytest.mark.slow
def test_dropout_has_the_same_rate_on_packed_clips() -> None:
    """Dropout of embeddings, layers and attention: the logits have the same spread as on padded clips."""
    split = planted(6, 0.0, 1)
    asked = recipe(layers=2, dropout=0.3)
    model = ClassificationTransformer(16, 4, asked).train()
    stack = HeadStack.of_heads([model], asked)
    batch = split.make_batch(BatchPlan(tuple(range(6))))
    padded = torch.nn.utils.rnn.pad_sequence(list(split.features), batch_first=True)
    valid = torch.arange(padded.shape[1])[None] < torch.tensor(batch.lengths)[:, None]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        generators = [torch.Generator().manual_seed(0)]
        ours = torch.stack([stack.compute_logits([batch], generators)[0] for _ in range(600)])
        theirs = torch.stack([model(padded, valid) for _ in range(600)])
    spread = theirs.std(0)
    assert float(((ours.mean(0) - theirs.mean(0)).abs() / spread).max()) < 0.3
    assert float((ours.std(0) / spread).log().abs().max()) < 0.2


def test_scores_do_not_depend_on_the_batch_size() -> None:
    split = planted(12, 0.0, 1)
    model = ClassificationTransformer(16, 4, recipe()).eval()
    together = predict_probabilities(model, split, recipe(batch_size=12))
    alone = predict_probabilities(model, split, recipe(batch_size=1))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_mixup_keeps_each_clips_own_mask() -> None:
    """As released (docs/deviations.md 6): a longer partner's tail is mixed into masked frames, so it changes nothing."""
    split = Sequences(("a", "b"), (torch.full((2, 3), 1.0), torch.full((5, 3), 2.0)), torch.eye(2), Counter())
    batch = split.make_batch(BatchPlan((0, 1), 0.75, (1, 0)))
    assert batch.lengths == (2, 5)
    assert torch.equal(batch.targets, torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert torch.equal(batch.features[:, 0], torch.tensor([1.25, 1.25, 1.75, 1.75, 1.5, 1.5, 1.5]))


def test_a_head_without_a_mask_reads_the_longer_partners_tail() -> None:
    split = Sequences(("a", "b"), (torch.full((2, 3), 1.0), torch.full((5, 3), 2.0)), torch.eye(2), Counter())
    batch = split.make_batch(BatchPlan((0, 1), 0.75, (1, 0)), sees_padding=True)
    assert batch.lengths == (5, 5)
    assert torch.equal(batch.features[:5, 0], torch.tensor([1.25, 1.25, 0.5, 0.5, 0.5]))


def test_an_epoch_has_every_clip_once_and_depends_on_the_seed_alone() -> None:
    draws = plan_epoch(3, 1, 21, recipe())
    assert sorted(n for draw in draws for n in draw.clips) == list(range(21))
    assert [len(draw.clips) for draw in draws] == [8, 8, 5]
    assert draws == plan_epoch(3, 1, 21, recipe())
    assert draws != plan_epoch(3, 2, 21, recipe())
    assert {draw.partners for draw in plan_epoch(3, 1, 21, recipe(mixup=0.0))} == {None}
    shares = np.array([draw.weight for draw in plan_epoch(3, 1, 4000, recipe(mixup=0.4, batch_size=1))])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 0.25 / 1.8) < 0.01  # of Beta(0.4, 0.4)


def test_the_linear_head_learns_planted_features() -> None:
    outcome = train_readout(
        TrainingData(planted(96, 0.0, 1), planted(64, 0.3, 2)), recipe(head="linear", layers=0), seed=3
    )
    assert outcome.epochs[-1].scores["top1"] > 0.9
    assert {name: tuple(t.shape) for name, t in outcome.model.state_dict().items()} == {
        "layers.0.weight": (4, 16 * 20),
        "layers.0.bias": (4,),
    }


def test_seeds_start_with_the_published_one() -> None:
    assert load_row("ucf_hmdb_sdv2").seeds.first(3) == [39, 40, 41]


@pytest.mark.parametrize("changes", [{"head": "linear"}, {"layers": 0}, {"epochs": 0}, {"max_length": 0}])
def test_an_invalid_recipe_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        recipe(**changes)


def test_bf16_is_near_fp32() -> None:
    split = planted(12, 0.0, 1)
    model = ClassificationTransformer(16, 4, recipe()).eval()
    exact, near = (predict_probabilities(model, split, recipe(), Compute(precision=p)) for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - near).max() < 0.05
    outcome = train_readout(
        TrainingData(planted(96, 0.0, 1), planted(64, 0.3, 2)), recipe(), seed=3, compute=Compute(precision="bf16")
    )
    assert outcome.epochs[-1].scores["top1"] > 0.9


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (Compute(precision="tf32"), "precision tf32 is a GPU's"),
        (Compute(device="tpu"), "device 'tpu': expected cpu or cuda"),
        (Compute(device="cuda"), "PyTorch finds no GPU here"),
    ],
)
def test_an_unavailable_device_or_precision_is_refused(compute: Compute, message: str) -> None:
    if compute.device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=message):
        train_readout(TrainingData(planted(8, 0.0, 1), planted(8, 0.0, 2)), recipe(), seed=1, compute=compute)


def test_deterministic_mode_ends_with_the_training() -> None:
    train_readout(
        TrainingData(planted(8, 0.0, 1), planted(8, 0.0, 2)),
        recipe(epochs=1),
        seed=1,
        compute=Compute(deterministic=True),
    )
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_nan_loss_stops_training() -> None:
    broken = planted(8, math.nan, 1)
    with pytest.raises(MissingError, match=r"training stopped in epoch 1, step 1: the loss is nan"):
        train_readout(TrainingData(broken, planted(8, 0.0, 2)), recipe(), seed=1)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(MissingError, match="width 16 cannot be read by 5 heads"):
        train_readout(TrainingData(planted(8, 0.0, 1), planted(8, 0.0, 2)), recipe(heads=5), seed=1)


def test_splits_of_different_widths_or_classes_are_refused() -> None:
    learned = planted(8, 0.0, 1)
    narrow = replace(learned, features=tuple(f[:, :8] for f in learned.features))
    fewer = replace(learned, targets=learned.targets[:, :3])
    for other, message in (
        (narrow, "features of two widths: 16 to train on, 8 to test on"),
        (fewer, "two class counts: 4 to train on, 3 to test on"),
        (learned.select_clips([]), "8 clips to train on, 0 to test on"),
    ):
        with pytest.raises(MissingError, match=message):
            train_readout(TrainingData(learned, other), recipe(), seed=1)
    with pytest.raises(MissingError, match="8 to select the epoch on"):
        train_readout(TrainingData(learned, learned, narrow), recipe(), seed=1)
