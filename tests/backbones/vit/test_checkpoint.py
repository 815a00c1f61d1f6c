"""Publishers' files as they come: wrapped, fine-tuned, of another size, damaged, or with more than tensors in them."""

import json
import pickle
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.commands import run_repro
from builders.shipped import use_shipped
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.backbones.registry import describe_backbone, load_backbone
from repro.backbones.vit.checkpoint import cut_encoder, open_encoder
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.family import Videomaev2Family, VjepaFamily
from repro.core.config import configs_folder
from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.files import lock_file
from repro.core.hashing import FileHashes, file_sha256
from repro.core.workspace import Workspace
from repro.fetch.catalogue import list_assets
from repro.fetch.encoder import fetch_encoder

VJEPA, VIDEOMAEV2 = VjepaFamily.layout, Videomaev2Family.layout
LAYOUTS = {"vjepa": VJEPA, "videomaev2": VIDEOMAEV2}
Tensors = dict[str, Tensor]


def config(family: str, **changes: str) -> VitConfig:
    found = load_backbone(f"{family}_tiny", changes)
    assert isinstance(found, VitConfig)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensors]:
    """Of each family, by the publishers' plain names."""
    workspace = Workspace(tmp_path_factory.mktemp("weights"))
    found = {}
    for family in LAYOUTS:
        path = describe_backbone(config(family), workspace).checkpoint
        assert path is not None
        found[family] = load_file(path)
    return found


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}{name}": values for name, values in tensors.items()}


def training(tensors: Tensors) -> dict[str, Any]:
    """As facebookresearch/jepa saves it."""
    other = {name: values + 1 for name, values in tensors.items()}
    return {
        "encoder": prefixed(other, "module.backbone."),
        "target_encoder": prefixed(tensors, "module.backbone."),
        "predictor": {"module.backbone.mask_tokens.0": torch.zeros(1)},
        "opt": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "scaler": {"scale": 65536.0}, "args": Namespace(lr=0.1, data_path="x"), "epoch": 300, "loss": 0.1, "batch_size": 24, "world_size": 8, "lr": 1e-4,
    }  # fmt: skip


def pretraining(tensors: Tensors) -> dict[str, Any]:
    """As OpenGVLab/VideoMAEv2 saves it."""
    others = {
        "decoder.blocks.0.norm1.weight": torch.zeros(3),
        "encoder_to_decoder.weight": torch.zeros(2),
        "mask_token": torch.zeros(1),
    }
    return {"model": prefixed(tensors, "encoder.") | others}


WAYS: dict[str, tuple[str, Callable[[Tensors], dict[str, Any]], str]] = {
    "plain": ("vjepa", dict, ""),
    "module": ("vjepa", lambda t: prefixed(t, "module."), "read from module.*"),
    "backbone": ("vjepa", lambda t: prefixed(t, "backbone."), "read from backbone.*"),
    "model": ("videomaev2", lambda t: {"model": t}, "read from model.*"),
    "encoder": ("videomaev2", lambda t: prefixed(t, "encoder."), "read from encoder.*"),
    "encoder alone": ("vjepa", lambda t: {"encoder": prefixed(t, "module.")}, "read from encoder.module.*"),
    "training": ("vjepa", training, "read from target_encoder.module.backbone.*, ignored: encoder, opt, predictor"),
    "pre-training": ("videomaev2", pretraining, "read from model.encoder.*, ignored: decoder, encoder_to_decoder, mask_token"),
    "pre-training, bare": ("videomaev2", lambda t: pretraining(t)["model"], "read from encoder.*, ignored: decoder, "),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_wrapped_encoder_is_unwrapped_and_said(
    tmp_path: Path, weights: dict[str, Tensors], way: str, kind: str
) -> None:
    family, wrap, said = WAYS[way]
    path = tmp_path / "checkpoint.pth"
    torch.save(wrap(weights[family]), path, _use_new_zipfile_serialization=kind == "zip")
    found = open_encoder(path, config(family), LAYOUTS[family])
    assert set(found.tensors) == set(weights[family])
    for name, values in weights[family].items():
        torch.testing.assert_close(found.tensors[name], values, rtol=0, atol=0)
    assert said in found.note
    assert bool(found.note) == bool(said)


def test_half_precision_is_widened(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    save_file({name: values.half() for name, values in weights["vjepa"].items()}, tmp_path / "half.safetensors")
    found = open_encoder(tmp_path / "half.safetensors", config("vjepa"), VJEPA)
    assert {values.dtype for values in found.tensors.values()} == {torch.float32}


def tuned(tensors: Tensors) -> Tensors:
    """As the publishers' fine-tuning leaves it: a norm of the mean and a classifier, no norm of tokens."""
    kept = {name: values for name, values in tensors.items() if not name.startswith("norm.")}
    width = tensors["norm.weight"].shape[0]
    return kept | {
        "fc_norm.weight": torch.full((width,), 2.0), "fc_norm.bias": torch.ones(width),
        "head.weight": torch.zeros(710, width), "head.bias": torch.zeros(710),
    }  # fmt: skip


def test_a_fine_tuned_encoder_is_distinguished_from_a_pre_trained_one(
    tmp_path: Path, weights: dict[str, Tensors]
) -> None:
    path = tmp_path / "tuned.pth"
    torch.save({"module": tuned(weights["videomaev2"])}, path)
    with pytest.raises(
        MissingError, match=r"a fine-tuned encoder: it has fc_norm.weight, .* no norm.weight"
    ) as refused:
        open_encoder(path, config("videomaev2"), VIDEOMAEV2)
    assert "--set stage=finetuned --set norm=fc_norm" in str(refused.value)
    changes = {"stage": "finetuned", "norm": "fc_norm"}
    found = open_encoder(path, config("videomaev2", **changes), VIDEOMAEV2)
    assert "head.weight" not in found.tensors
    assert "ignored: head" in found.note
    torch.save(weights["videomaev2"], path)
    with pytest.raises(MissingError, match=r"a pre-trained encoder: it ends in norm.weight"):
        open_encoder(path, config("videomaev2", **changes), VIDEOMAEV2)


def test_a_fine_tuned_norm_uses_its_weights(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    from repro.backbones.vit.videomaev2 import Videomaev2Encoder

    torch.save(tuned(weights["videomaev2"]), tmp_path / "tuned.pth")
    wanted = config("videomaev2", stage="finetuned", norm="fc_norm")
    found = open_encoder(tmp_path / "tuned.pth", wanted, VIDEOMAEV2)
    encoder = Videomaev2Encoder(found.tensors, found.sizes, 4, 16)
    mean = torch.randn(5, 88, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.layer_norm(mean, (88,), eps=1e-6)
    torch.testing.assert_close(encoder.fc_norm(mean), 2 * plain + 1)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: values for key, values in tensors.items() if key != name}


def add(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("vjepa", without("blocks.1.attn.qkv.bias"), "1 tensors missing: blocks.1.attn.qkv.bias"),
        ("vjepa", without("pos_embed"), "1 tensors missing: pos_embed"),
        ("vjepa", add("blocks.0.attn.q_norm.weight", 3), "1 tensors unknown: blocks.0.attn.q_norm.weight"),
        ("vjepa", add("cls_token", 1), "1 tensors unknown: cls_token"),
        ("vjepa", add("norm.bias", 3), "1 tensors of another shape: norm.bias is [3], expected [96]"),
        ("videomaev2", add("pos_embed", 1, 128, 88), "1 tensors unknown: pos_embed"),
        ("videomaev2", without("blocks.0.attn.q_bias"), "1 tensors missing: blocks.0.attn.q_bias"),
        ("vjepa", without("patch_embed.proj.weight"), "patch_embed.proj.weight not found among blocks.0"),
        ("vjepa", lambda t: {}, "patch_embed.proj.weight not found: it contains no tensors"),
        ("vjepa", lambda t: {"target_encoder": t, "teacher": {"x": torch.zeros(1)}}, "besides target_encoder.* it contains unknown tensors of teacher"),
        ("vjepa", lambda t: t | {"patch_embed.proj.weight": torch.zeros(96, 3, 16, 16)}, "not the patches of a video"),
    ],
)  # fmt: skip
def test_every_tensor_is_accounted_for(
    tmp_path: Path, weights: dict[str, Tensors], family: str, change: Callable[[Tensors], Any], said: str
) -> None:
    torch.save(change(dict(weights[family])), tmp_path / "changed.pth")
    with pytest.raises(MissingError) as refused:
        open_encoder(tmp_path / "changed.pth", config(family), LAYOUTS[family])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_size_is_refused(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    torch.save(weights["vjepa"], tmp_path / "tiny.pth")
    with pytest.raises(MissingError, match=r"width 96, 3 blocks, .* expected width 96, 4 blocks"):
        open_encoder(
            tmp_path / "tiny.pth",
            config("vjepa", encoder="{width: 96, depth: 4, patch: 16, tubelet: 2, mlp: 384}"),
            VJEPA,
        )
    with pytest.raises(MissingError, match="num_heads 5 does not divide its width 96"):
        open_encoder(tmp_path / "tiny.pth", config("vjepa", num_heads="5"), VJEPA)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, weights: dict[str, Tensors]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"target_encoder": weights["vjepa"], "args": Runs()}, tmp_path / "bad.pth", pickle_protocol=protocol)
    with pytest.raises(MissingError, match="the pickle contains more than tensors and plain values"):
        open_encoder(tmp_path / "bad.pth", config("vjepa"), VJEPA)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Runs(), protocol))
    with pytest.raises(MissingError) as refused:
        open_encoder(tmp_path / "bare.pth", config("vjepa"), VJEPA)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("file.pth", "file.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MissingError) as refused:
            open_encoder(tmp_path / name, config("vjepa"), VJEPA)
        assert str(refused.value).startswith(f"checkpoint {tmp_path / name}: ")
        assert "\n" not in str(refused.value)


def test_a_cut_encoder_is_the_same_every_time(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    torch.save(training(weights["vjepa"]), tmp_path / "training.pth.tar")
    said = [
        cut_encoder(config("vjepa"), VJEPA, tmp_path / "training.pth.tar", tmp_path / name)
        for name in ("a.safetensors", "b.safetensors")
    ]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert said[0] == "41 tensors of target_encoder.module.backbone.*, without encoder, opt, predictor"
    found = load_file(tmp_path / "a.safetensors")
    for name, values in weights["vjepa"].items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)


# Through `repro fetch`.


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone to fetch like vjepa, as small as vjepa_tiny."""
    shutil.copytree(configs_folder(), tmp_path / "configs")
    text = (tmp_path / "configs" / "backbones" / "vjepa.yaml").read_text()
    text = text.replace(
        "{width: 1280, depth: 32, patch: 16, tubelet: 2, mlp: 5120}",
        "{width: 96, depth: 3, patch: 16, tubelet: 2, mlp: 384}",
    )
    text = text.replace("num_heads: 16", "num_heads: 4")
    (tmp_path / "configs" / "backbones" / "vjepa.yaml").write_text(text)
    use_shipped(monkeypatch, configs=tmp_path / "configs")
    return "vjepa"


def test_fetch_keeps_the_encoder_and_notes_what_it_was_cut_from(
    tmp_path: Path, small: str, weights: dict[str, Tensors]
) -> None:
    workspace, hashes = Workspace(tmp_path / "workspace"), FileHashes(tmp_path / "hashes.jsonl")
    mine = tmp_path / "mine.pth.tar"
    torch.save(training(weights["vjepa"]), mine)
    asset = list_assets(workspace)[small]
    (file,) = asset.files
    fetched = fetch_encoder(asset, file, str(mine), hashes, Reporter(to_stderr=True))
    target = workspace.checkpoints / "vith16.target_encoder.safetensors"
    assert fetched.path == target
    assert fetched.means == "cut"
    assert mine.is_file()
    assert not (workspace.checkpoints / "vith16.pth.tar").exists()
    noted = json.loads((workspace.checkpoints / f"{target.name}.origin.json").read_text())
    assert noted["sha256"] == fetched.sha256
    assert noted["original"]["sha256"] == hashes.sha256(mine)
    assert noted["original"]["from"] == str(mine)
    again = fetch_encoder(asset, file, None, hashes, Reporter(to_stderr=True))
    assert (again.means, again.sha256) == ("there", fetched.sha256)
    described = describe_backbone(load_backbone(small), workspace)
    assert described.checkpoint_sha256 == fetched.sha256
    # Changed behind our back: refused, and made good by the next fetch.
    target.write_bytes(target.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(MissingError, match="it is damaged or another file"):
        describe_backbone(load_backbone(small), workspace)
    assert fetch_encoder(asset, file, str(mine), hashes, Reporter(to_stderr=True)).sha256 == fetched.sha256
    assert (workspace.checkpoints / f"{target.name}.damaged1").is_file()
    # Another original than the first one, of which no checksum is published.
    target.unlink()
    torch.save(training({n: v + 1 for n, v in weights["vjepa"].items()}), mine)
    with pytest.raises(MissingError, match="expected"):
        fetch_encoder(asset, file, str(mine), hashes, Reporter(to_stderr=True))


def test_fetch_refuses_another_encoder_and_takes_the_right_one_then(
    tmp_path: Path, small: str, weights: dict[str, Tensors]
) -> None:
    """What could not be cut is set aside, and is not what later files are held against."""
    workspace, hashes = Workspace(tmp_path / "workspace"), FileHashes(tmp_path / "hashes.jsonl")
    torch.save(training(without("norm.bias")(weights["vjepa"])), tmp_path / "mine.pth.tar")
    asset = list_assets(workspace)[small]
    with pytest.raises(MissingError, match=r"tensors missing: norm\.bias"):
        fetch_encoder(asset, asset.files[0], str(tmp_path / "mine.pth.tar"), hashes, Reporter(to_stderr=True))
    assert sorted(path.name for path in workspace.checkpoints.glob("[!.]*")) == ["vith16.pth.tar.damaged1"]
    torch.save(training(weights["vjepa"]), tmp_path / "mine.pth.tar")
    fetched = fetch_encoder(asset, asset.files[0], str(tmp_path / "mine.pth.tar"), hashes, Reporter(to_stderr=True))
    assert fetched.means == "cut"


def test_a_licence_is_shown_for_both(tmp_path: Path) -> None:
    done = run_repro("fetch", "vjepa", "videomaev2", cwd=tmp_path)
    assert done.code == 4
    assert "vith16.pth.tar (10.4 GB, of which 2.5 GB are kept)\n  licence: CC BY-NC 4.0" in done.out
    assert "vit_g_hybrid_pt_1200e.pth (4.1 GB)\n  licence: apache-2.0 by the tag" in done.out
    # A disk without room for both is warned of as well.
    assert sum(not line.startswith("warning: ") for line in done.err.splitlines()) == 1, done.err


@pytest.mark.slow
def test_what_was_unwrapped_is_said_where_it_is_used(tmp_path: Path, weights: dict[str, Tensors], clip: Path) -> None:
    """On the terminal of `repro extract` and `repro verify`."""
    place = Workspace(tmp_path / "workspace")
    describe_backbone(config("vjepa"), place)
    wrapped = tmp_path / "wrapped.pth"
    torch.save(training(weights["vjepa"]), wrapped)
    done = run_repro("verify", "vjepa_tiny", "--checkpoint", wrapped, "--workspace", place.root)
    assert done.code == 0, done.err
    assert (
        f"checkpoint {wrapped}: read from target_encoder.module.backbone.*, ignored: encoder, opt, predictor"
        in done.err
    )
    path = describe_backbone(config("vjepa"), place).checkpoint
    assert path is not None
    save_file(prefixed(load_file(path), "module."), path)
    (tmp_path / "clips").mkdir()
    shutil.copy(clip, tmp_path / "clips")
    done = run_repro("extract", tmp_path / "clips", "--backbone", "vjepa_tiny", "--workspace", place.root)
    assert done.code == 0, done.err
    assert f"checkpoint {path}: read from module.*" in done.out + done.err


def test_a_table_of_positions_for_other_pictures_is_said(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    larger = weights["vjepa"] | {"pos_embed": torch.zeros(1, 8 * 6 * 6, 96)}
    torch.save(larger, tmp_path / "larger.pth")
    found = open_encoder(tmp_path / "larger.pth", config("vjepa"), VJEPA)
    assert "positions for 16 frames of 96 pixels are interpolated to 16 frames of 64" in found.note
    torch.save(weights["vjepa"] | {"pos_embed": torch.zeros(1, 130, 96)}, tmp_path / "odd.pth")
    with pytest.raises(MissingError, match="130 positions are not those of 16 frames of a square"):
        open_encoder(tmp_path / "odd.pth", config("vjepa"), VJEPA)


def test_the_same_encoder_has_one_hash_whatever_it_was_wrapped_in(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    for name, wrapped in (("a", training(weights["vjepa"])), ("b", prefixed(weights["vjepa"], "module."))):
        torch.save(wrapped, tmp_path / f"{name}.pth")
        cut_encoder(config("vjepa"), VJEPA, tmp_path / f"{name}.pth", tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_put_there_by_hand_is_cut_and_its_hash_kept(
    tmp_path: Path, small: str, weights: dict[str, Tensors]
) -> None:
    workspace, hashes = Workspace(tmp_path / "workspace"), FileHashes(tmp_path / "hashes.jsonl")
    workspace.checkpoints.mkdir(parents=True)
    mine = workspace.checkpoints / "vith16.pth.tar"
    torch.save(training(weights["vjepa"]), mine)
    sha256 = file_sha256(mine)
    asset = list_assets(workspace)[small]
    fetched = fetch_encoder(asset, asset.files[0], None, hashes, Reporter(to_stderr=True))
    noted = json.loads((workspace.checkpoints / f"{fetched.path.name}.origin.json").read_text())
    assert noted["original"]["sha256"] == sha256
    with (
        lock_file(fetched.path.with_name(f".{fetched.path.name}.lock"), "x", "y"),
        pytest.raises(UsageError, match="is being made"),
    ):
        fetch_encoder(asset, asset.files[0], None, hashes, Reporter(to_stderr=True))


def test_a_file_is_what_it_says_whatever_its_name(tmp_path: Path, weights: dict[str, Tensors]) -> None:
    save_file(weights["vjepa"], tmp_path / "named.pth.tar")
    assert set(open_encoder(tmp_path / "named.pth.tar", config("vjepa"), VJEPA).tensors) == set(weights["vjepa"])
    (tmp_path / "noise.pth.tar").write_bytes(torch.randint(0, 256, (100_000,), dtype=torch.uint8).numpy().tobytes())
    with pytest.raises(MissingError, match="neither a safetensors file nor a complete file"):
        open_encoder(tmp_path / "noise.pth.tar", config("vjepa"), VJEPA)
