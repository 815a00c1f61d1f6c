"""Texts in place of the conditioning image: tokens, the text tower, the UNet's inputs, and the features' key."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from builders import tiny_text_tower
from builders.commands import run_repro
from builders.tiny_text_tower import MERGES, TOWER
from safetensors.torch import save_file

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.svd import implementations, text_files
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import Request, SvdModel, find_needs
from repro.backbones.svd.pictures import pad_window
from repro.backbones.svd.plain import NEEDS, compute_plain_window
from repro.backbones.svd.text import clean_text, embed_texts, load_tokenizer
from repro.backbones.svd.verify import compare_ways, verify_against_golden
from repro.core.errors import MissingError, UsageError
from repro.core.hashing import content_key, file_sha256
from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.split import Split, SplitName

NOISE = WindowNoise(23, "0" * 64, 0)
ACTIONS = {"conditioning.source": "actions", "conditioning.actions_of": "animal_kingdom/full_train"}


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "merges.txt.gz"
    tiny_text_tower.write_merges(path)
    return path


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_text_tower.weights()


@pytest.fixture(scope="module")
def pickled(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "open_clip.bin"
    torch.save(weights, path)
    return path


def plain_tokens(text: str) -> list[int]:
    """Byte pair encoding as Sennrich et al. (2016) have it: of all neighbours the pair merged first, again and again."""
    ranks = {tuple(line.split()): rank for rank, line in enumerate(MERGES)}
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    vocabulary = [chr(b) for b in shown] + [chr(256 + n) for n in range(68)]
    vocabulary += [f"{letter}</w>" for letter in vocabulary] + ["".join(pair) for pair in ranks]
    ids = [len(vocabulary)]
    for word in text.split():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
            at = list(itertools.pairwise(parts)).index(min(pairs, key=lambda pair: ranks[pair]))
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        ids += [vocabulary.index(part) for part in parts]
    return [*ids, len(vocabulary) + 1]


def plain_embedding(weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """The text transformer written out, on a text padded with zeros to its complete context, as OpenCLIP computes it."""
    context, heads = TOWER.context, TOWER.heads
    padded_ids = torch.tensor(ids + [0] * (context - len(ids)))
    x = weights["token_embedding.weight"][padded_ids] + weights["positional_embedding"]
    ahead = torch.full((context, context), -math.inf).triu(1)
    for number in range(TOWER.layers):
        w = {
            name.split(".", 3)[3]: v
            for name, v in weights.items()
            if name.startswith(f"transformer.resblocks.{number}.")
        }
        y = functional.layer_norm(x, (TOWER.width,), w["ln_1.weight"], w["ln_1.bias"])
        q, k, v = (y @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]).reshape(context, 3, heads, -1).unbind(1)
        scores = torch.einsum("qhc,khc->hqk", q, k) / math.sqrt(TOWER.width / heads) + ahead
        y = torch.einsum("hqk,khc->qhc", scores.softmax(-1), v).reshape(context, -1)
        x = x + y @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]
        y = functional.layer_norm(x, (TOWER.width,), w["ln_2.weight"], w["ln_2.bias"])
        y = functional.gelu(y @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"])
        x = x + y @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
    x = functional.layer_norm(x, (TOWER.width,), weights["ln_final.weight"], weights["ln_final.bias"])
    return x[int(padded_ids.argmax())] @ weights["text_projection"]


@pytest.mark.parametrize("text", ["", "eating", "Eating  swim", "e", "teatin", "sw&amp;amp;"])
def test_texts_become_the_tokens_of_byte_pair_encoding(merges: Path, text: str) -> None:
    plain = plain_tokens("sw &" if "amp" in text else text.lower())
    assert load_tokenizer(merges, TOWER.vocabulary)(clean_text(text))["input_ids"] == plain


@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_the_text_tower_is_open_clips(
    weights: dict[str, torch.Tensor], pickled: Path, merges: Path, tmp_path: Path, kind: str
) -> None:
    path = pickled
    if kind == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(weights, path)
    texts = ["", "eating", "swim eating"]
    found = embed_texts(TOWER, path, merges, texts)
    plain = torch.stack([plain_embedding(weights, plain_tokens(text)) for text in texts])
    assert float((found - plain).norm() / plain.norm()) < 1e-6
    assert not torch.allclose(found.norm(dim=1), torch.ones(3), atol=0.1)  # not of unit length


@pytest.mark.parametrize("damage", ["weights", "size", "merges", "few merges", "long text"])
def test_what_is_no_text_tower_is_refused(
    weights: dict[str, torch.Tensor], pickled: Path, merges: Path, tmp_path: Path, damage: str
) -> None:
    broken, tower, texts = tmp_path / "broken", TOWER, ["eating"]
    if damage == "weights":
        broken.write_bytes(b"no weights")
        pickled, said = broken, "neither safetensors nor a pickle of tensors"
    elif damage == "size":
        tower, said = (
            TOWER.model_copy(update={"layers": 4}),
            "'transformer.resblocks.3.* is missing: not the text tower",
        )
    elif damage == "merges":
        broken.write_bytes(b"no gzip")
        merges, said = broken, "not the gzipped merges"
    elif damage == "few merges":
        tower, said = TOWER.model_copy(update={"vocabulary": 600}), "not 86 merges of two parts"
    else:
        texts, said = ["a b c d e f g h"], "10 tokens, expected at most 9"
    with pytest.raises((MissingError, UsageError), match=said) as caught:
        embed_texts(tower, pickled, merges, texts)
    assert "\n" not in str(caught.value)


@pytest.fixture
def place(
    workspace: Workspace, pickled: Path, merges: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A workspace with the small text tower in it, and a data set of three actions."""
    shipped = text_files.load_text_encoder()
    files = {}
    for part, source in (("weights", pickled), ("merges", merges)):
        file = getattr(shipped, part).model_copy(update={"sha256": file_sha256(source)})
        files[part] = file
        workspace.checkpoints.mkdir(parents=True, exist_ok=True)
        (workspace.checkpoints / file.file).write_bytes(source.read_bytes())
    small = shipped.model_copy(update={"tower": TOWER, **files})
    monkeypatch.setattr(text_files, "load_text_encoder", lambda: small)
    name_classes(monkeypatch, "eating", "swim", "e")
    return workspace


def name_classes(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    class Opened:
        def split(self, name: str) -> Split:
            return Split(SplitName("zoo", name), names, ())

    monkeypatch.setattr(registry, "open_dataset", lambda config, workspace: Opened())


@pytest.mark.slow
def test_the_fast_path_with_texts_is_the_plain_one(tiny: SvdConfig, tiny_checkpoint: Path) -> None:
    """With several tokens, in the spatial and the temporal attention; the condition latent stays."""
    config = load_backbone("svd_xt_tiny", ACTIONS | {"frames.window": "4", "size": "[64, 64]"})
    assert isinstance(config, SvdConfig)
    window = pad_window(np.random.default_rng(2).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8), 4)
    text = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    complete = implementations.load_networks("diffusers", tiny_checkpoint, config.architecture, NEEDS)
    for mixing in (True, False):
        wanted = Request(mixing, frozenset({(20, 2), (20, 9), (20, 13)}))
        wants = find_needs(config, [wanted])
        assert (wants.image, wants.tower) == (True, False)
        loaded = implementations.load_networks("diffusers", tiny_checkpoint, config.architecture, wants)
        assert len(loaded.parts) == 3  # type: ignore[attr-defined]
        model = SvdModel(config, loaded, {"": wanted}, text=text)
        assert set(model.noise_shapes(4)) == {"posterior", "augmentation"}
        found = model.compute_window(window, 3, NOISE)[""]
        plain = compute_plain_window(config, complete, wanted, window, NOISE, text=text)
        for cell, mean in found.items():
            assert float((mean[:3] - plain[cell][:3]).norm() / plain[cell][:3].norm()) < 5e-6
        # The order of the texts does not matter, and equal ones are as one: so "" is computed once, not once a class.
        turned = SvdModel(config, loaded, {"": wanted}, text=text.flip(0)).compute_window(window, 3, NOISE)[""]
        assert torch.allclose(turned[(20, 9)], found[(20, 9)], atol=1e-5)
        once, often = (
            SvdModel(config, loaded, {"": wanted}, text=text[:1].expand(n, -1)).compute_window(window, 3, NOISE)[""][
                (20, 9)
            ]
            for n in (1, 5)
        )
        assert torch.allclose(once, often, atol=1e-5)
        assert float((once - found[(20, 9)]).norm() / once.norm()) > 1e-3


@pytest.mark.slow
def test_a_backbone_with_texts_from_its_files_to_features(place: Workspace) -> None:
    config = load_backbone("svd_xt_tiny", ACTIONS | {"frames.window": "3"})
    backbone = describe_backbone(config, place)
    (extractor,) = open_extractors([(backbone, [Cell(timestep=20, layer=2)])], Execution())
    frames = np.random.default_rng(4).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    found = extractor.features([frames], [NOISE])["svd_xt_tiny"]["t20_layer02"]
    assert found.shape == (2, 32)
    empty = describe_backbone(
        load_backbone("svd_xt_tiny", {"conditioning.source": "empty_text", "frames.window": "3"}), place
    )
    (extractor,) = open_extractors([(empty, [Cell(timestep=20, layer=2)])], Execution())
    other = extractor.features([frames], [NOISE])["svd_xt_tiny"]["t20_layer02"]
    assert float(np.linalg.norm(found - other) / np.linalg.norm(other)) > 1e-4


@pytest.mark.slow
def test_the_features_key_knows_texts_and_text_tower(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return content_key(describe_backbone(load_backbone("svd_xt_tiny", ACTIONS), place).identity())

    identity = describe_backbone(load_backbone("svd_xt_tiny", ACTIONS), place).identity()
    assert identity["text"]["texts"] == ["eating", "swim", "e"]
    assert {len(identity["text"][part]) for part in ("weights", "merges")} == {64}
    before = key()
    assert key() == before
    name_classes(monkeypatch, "eating", "swim", "x")
    assert key() != before
    name_classes(monkeypatch, "eating", "swim", "e")
    with (place.checkpoints / text_files.load_text_encoder().weights.file).open("ab") as file:
        file.write(b" ")
    with pytest.raises(MissingError, match=r"it is damaged or another file: fetch it again"):
        key()
    encoder = text_files.load_text_encoder()
    unpinned = encoder.weights.model_copy(update={"sha256": None})
    monkeypatch.setattr(text_files, "load_text_encoder", lambda: encoder.model_copy(update={"weights": unpinned}))
    assert key() != before


def test_features_without_texts_have_the_key_they_had(workspace: Workspace) -> None:
    """No key of theirs says anything of texts."""
    identity = describe_backbone(load_backbone("svd_xt_tiny"), workspace).identity()
    assert set(identity["conditioning"]) == {"source", "fps_id", "motion_bucket_id", "noise_augmentation"}
    assert "text" not in identity


@pytest.mark.slow
def test_what_is_not_there_is_named_with_what_brings_it(workspace: Workspace) -> None:
    config = load_backbone("svd_xt_tiny", ACTIONS)
    with pytest.raises(
        MissingError, match=r"open_clip_vit_h_14.bin and bpe_.* missing in .* `?repro fetch openclip_text"
    ):
        describe_backbone(config, workspace)
    assert list(config.missing_inputs(workspace)) == ["openclip_text"]
    # For features that are there already, the published sha256 will do.
    empty = load_backbone("svd_xt", {"conditioning.source": "empty_text"})
    identity = describe_backbone(empty, workspace, to_compute=False).identity()
    assert identity["text"]["weights"] == text_files.load_text_encoder().weights.sha256
    assert identity["text"]["texts"] == [""]
    done = run_repro("fetch", "ak_full_action_text", "--workspace", workspace.root)
    assert "repro fetch ak_full_action_text --accept-license" in done.err
    assert all(
        f"\n{name}" in f"\n{done.out}" for name in ("svd_xt: ", "openclip_text: ", "animal_kingdom cannot be fetched")
    )
    done = run_repro("fetch", "openclip_text", "--workspace", workspace.root)
    assert done.code == 4
    assert "open_clip_vit_h_14.bin (3.94 GB), bpe_simple_vocab_16e6.txt.gz (1.4 MB)\n  licence: MIT\n" in done.out
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditioning.source": "actions"}, "actions_of belongs to source: actions"),
        ({"conditioning.actions_of": "animal_kingdom/full_train"}, "actions_of belongs to source: actions"),
    ],
)
def test_a_config_that_says_half_of_it(changes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_backbone("svd_xt_tiny", changes)


def test_class_names_of_nothing(place: Workspace) -> None:
    config = load_backbone("svd_xt_tiny", ACTIONS | {"conditioning.actions_of": "zoo/train"})
    with pytest.raises(UsageError, match=r"actions_of: zoo/train: expected <data set>/<split>, of animal_kingdom"):
        describe_backbone(config, place)


def test_verify_has_no_texts_to_compare_with(tiny_checkpoint: Path) -> None:
    config = load_backbone("svd_xt_tiny", {"conditioning.source": "empty_text"})
    assert isinstance(config, SvdConfig)
    said = "needs text embeddings of 64 channels, none are given"
    with pytest.raises(UsageError, match=said):
        next(compare_ways(config, tiny_checkpoint, Execution(), 1e-5))
    with pytest.raises(UsageError, match=said):
        next(verify_against_golden(config, tiny_checkpoint, tiny_checkpoint.parent, Execution()))


def test_the_shipped_files_are_pinned() -> None:
    encoder = text_files.load_text_encoder()
    assert encoder.weights.sha256 is not None
    assert encoder.merges.sha256 is not None
    config = load_backbone("svd_xt")
    assert isinstance(config, SvdConfig)
    assert encoder.tower.embed_dim == config.architecture.unet.context_dim
