"""A killed training resumes after its last saved epoch and ends with the same bits, or fails with one line that says why."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.commands import TESTS
from builders.planted import planted, recipe

from repro.core.errors import MissingError, UsageError
from repro.readout import checkpoints
from repro.readout.checkpoints import (
    LAST,
    SELECTED,
    STATE,
    CheckpointFolder,
    Epoch,
    TrainingData,
    read_header,
    read_tensors,
)
from repro.readout.heads import build_head
from repro.readout.recipe import Recipe
from repro.readout.train import TrainingResult, train_readout

RECIPE = recipe(epochs=5, layers=2)


pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(Exception):
    pass


def run(
    folder: Path, asked: Recipe = RECIPE, seed: int = 3, killed_after: int = 0, held_out: bool = False
) -> TrainingResult:
    def after(epoch: Epoch) -> None:
        if epoch.number == killed_after:
            raise KilledError

    folder.mkdir(exist_ok=True)
    return train_readout(
        TrainingData(planted(24, 0.0, 1), planted(16, 0.3, 2), planted(12, 0.0, 5) if held_out else None),
        asked,
        seed,
        metric="top1",
        folder=CheckpointFolder(folder, {"row": "made up"}, warnings.append),
        after_epoch=after,
    )


warnings: list[str] = []


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings.clear()
    monkeypatch.setattr(checkpoints, "STATE_EVERY", 0.0)  # saved after every epoch


def bits(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (SELECTED, LAST)}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, killed_after: int, held_out: bool) -> None:
    unbroken = run(tmp_path / "whole", held_out=held_out)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", killed_after=killed_after, held_out=held_out)
    assert len(read_header(tmp_path / "killed" / STATE)["epochs"]) == killed_after  # type: ignore[index]
    resumed = run(tmp_path / "killed", held_out=held_out)
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert resumed.epochs == unbroken.epochs
    assert resumed.selected == unbroken.selected
    for ours, theirs in zip(resumed.predictions, unbroken.predictions, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not warnings


@pytest.mark.parametrize("killed_after", [2, 4])
def test_between_two_saves_epochs_are_trained_again_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """The best epoch is the fourth: its weights are part of no state yet, or of the third epoch's another one's."""
    asked = recipe(epochs=5, layers=2, learning_rate=0.02)
    unbroken = run(tmp_path / "whole", asked)
    monkeypatch.setattr(checkpoints, "STATE_EVERY", 60.0)
    clock = iter(range(0, 10**6, 25))  # an epoch reads it once, a save twice: epoch 3 is saved
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(KilledError):
        run(tmp_path / "killed", asked, killed_after=killed_after)
    state = read_header(tmp_path / "killed" / STATE)
    assert (None if state is None else len(state["epochs"])) == (None if killed_after == 2 else 3)
    assert not (tmp_path / "killed" / SELECTED).exists()
    resumed = run(tmp_path / "killed", asked)
    assert resumed.epochs == unbroken.epochs
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert not warnings


def test_a_slow_disk_is_written_to_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of 30 s and a save of 15 s: 300 s, not 60, until the next."""
    now, saved = 0.0, []

    def save(*_: object) -> None:
        nonlocal now
        now += 15.0
        saved.append(epoch)

    monkeypatch.setattr(checkpoints, "STATE_EVERY", 60.0)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoints, "write_tensors", save)
    model = build_head(recipe(head="linear", layers=0), 16, 4)
    state = checkpoints.TrainingState.start(model.state_dict())
    for epoch in range(1, 25):
        now += 30.0
        state.epochs.append(Epoch(epoch, 0.0, {}))
        state.logits.append(torch.zeros(1, 2))
        checkpoints.save_training(CheckpointFolder(tmp_path, {}, warnings.append), {}, state, state.epochs[-1])
    assert saved == [2, 12, 22]


SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = ["readout", "."]
import test_checkpoints
from repro.readout import checkpoints
checkpoints.STATE_EVERY = 0.0
real = checkpoints.write_tensors
def slow(*arguments):
    real(*arguments)
    time.sleep(0.2)
checkpoints.write_tensors = slow
test_checkpoints.run(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=TESTS, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len((read_header(folder / STATE) or {"epochs": []})["epochs"]) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    run(folder)
    assert bits(folder) == bits(tmp_path / "whole")
    assert not warnings


def test_the_selected_weights_are_the_best_epochs(tmp_path: Path) -> None:
    outcome = run(tmp_path, recipe(epochs=5, learning_rate=0.05))
    best = max(outcome.epochs, key=lambda epoch: epoch.scores["top1"])
    assert outcome.selected == best
    assert read_header(tmp_path / SELECTED)["epoch"] == best.number  # type: ignore[index]
    assert read_header(tmp_path / LAST)["epoch"] == 5  # type: ignore[index]
    tensors, _ = read_tensors(tmp_path / LAST)
    assert all(torch.equal(tensors[name], value) for name, value in outcome.model.state_dict().items())


def test_a_training_whose_recipe_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, killed_after=2)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(UsageError, match=r"training.safetensors: .* recipe.learning_rate was 0.001 and is 0.002"):
        run(tmp_path, recipe(epochs=5, layers=2, learning_rate=2e-3))
    with pytest.raises(UsageError, match=r"seed was 3 and is 4: restore these settings"):
        run(tmp_path, seed=4)
    with pytest.raises(UsageError, match=r"held_out was None"):
        run(tmp_path, held_out=True)
    assert (tmp_path / STATE).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut off", "a bit", "no file", "of an earlier version"])
def test_a_damaged_state_is_renamed_and_training_restarts(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(KilledError):
        run(folder, killed_after=2)
    raw = bytearray((folder / STATE).read_bytes())
    raw[-5] ^= 1
    if damage == "of an earlier version":  # which kept the selected weights in a file of their own
        tensors, about = read_tensors(folder / STATE)
        del about["selected"]
        checkpoints.write_tensors(folder / STATE, tensors, about)
    elif damage == "no file":
        (folder / STATE).unlink()
    else:
        (folder / STATE).write_bytes(raw[:-9] if damage == "cut off" else raw)
    run(folder)
    assert bits(folder) == bits(tmp_path / "whole")
    if damage != "no file":
        assert len(warnings) == 1
        assert str(folder / STATE) in warnings[0]
        assert (folder / f"{STATE}.damaged1").is_file()


def test_another_number_of_threads_gives_a_warning(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(KilledError):
        run(tmp_path, killed_after=2)
    torch.set_num_threads(threads + 1)
    try:
        run(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(warnings) == 1
    assert f"began on {threads} threads" in warnings[0]


def test_a_nan_loss_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.readout import train as training

    real = training.train_one_epoch

    def spoilt(*arguments: object) -> list[list[float]]:
        if arguments[5] == 3:
            with torch.no_grad():
                arguments[0].weights["classifier.weight"].fill_(torch.nan)  # type: ignore[attr-defined]
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_one_epoch", spoilt)
        with pytest.raises(
            MissingError, match=r"stopped in epoch 3, step 1: the loss is nan.* after epoch 2 is kept in"
        ):
            run(tmp_path / "spoilt")
    tensors, about = read_tensors(tmp_path / "spoilt" / STATE)
    assert len(about["epochs"]) == 2
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    run(tmp_path / "spoilt")
    run(tmp_path / "whole")
    assert bits(tmp_path / "spoilt") == bits(tmp_path / "whole")


def test_weights_made_nan_by_the_last_step_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.readout import train as training

    real = training.train_one_epoch

    def spoilt(*arguments: object) -> list[list[float]]:
        value = real(*arguments)  # type: ignore[arg-type]
        if arguments[5] == 2:
            with torch.no_grad():
                arguments[0].weights["classifier.weight"].fill_(torch.inf)  # type: ignore[attr-defined]
        return value

    monkeypatch.setattr(training, "train_one_epoch", spoilt)
    with pytest.raises(MissingError, match=r"stopped in epoch 2, its last step: the weights are not finite"):
        run(tmp_path)
    assert len(read_header(tmp_path / STATE)["epochs"]) == 1  # type: ignore[index]


def test_a_checkpoint_stores_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoints.write_tensors(path, {"a": torch.arange(3.0), "empty": torch.zeros(0, 2)}, {"row": "ucf_hmdb"})
    tensors, about = read_tensors(path)
    assert about == {"row": "ucf_hmdb"}
    assert torch.equal(tensors["a"], torch.arange(3.0))
    path.write_text(json.dumps({}))
    with pytest.raises(checkpoints.DamagedCheckpointError, match="not a complete safetensors file"):
        read_tensors(path)
    assert read_header(path) is None
