"""The decoder's layers, up_1 to up_12: no golden values of them exist, so they are compared with the complete UNet as released."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.backbones.config import Cell, choose_cells, explain_missing_cell
from repro.backbones.extractor import Backbone
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import load_backbone
from repro.backbones.svd import implementations
from repro.backbones.svd.config import SVD_LAYER_ORDER, SvdConfig, layer_depth
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import Request, SvdModel, TimestepLayer
from repro.backbones.svd.networks import Needs, Networks
from repro.backbones.svd.pictures import pad_window
from repro.backbones.svd.plain import NEEDS, compute_plain_window
from repro.cli.options import parse_layers
from repro.core.errors import UsageError

NOISE = WindowNoise(23, "0" * 64, 0)
UPS = [f"up_{n}" for n in range(1, 13)]


@pytest.fixture(scope="module")
def small(tiny: SvdConfig) -> SvdConfig:
    """Windows of 4, of which 3 frames are real."""
    return SvdConfig.model_validate(tiny.model_dump() | {"name": tiny.name, "frames": {"window": 4}, "size": (64, 64)})


@pytest.fixture(scope="module")
def window() -> np.ndarray:
    return pad_window(np.random.default_rng(2).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8), 4)


@pytest.fixture(scope="module")
def complete(tiny: SvdConfig, tiny_checkpoint: Path) -> Networks:
    return implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, NEEDS)


def request(mixing: bool, *chosen: int | str) -> Request:
    return Request(mixing, frozenset((20, layer) for layer in chosen))


def means(
    config: SvdConfig, loaded: Networks, wanted: Request, window: np.ndarray
) -> dict[TimestepLayer, torch.Tensor]:
    return SvdModel(config, loaded, {"": wanted}).compute_window(window, 3, NOISE)[""]


@pytest.mark.parametrize("mixing", [True, False])
@pytest.mark.slow
def test_the_fast_path_goes_on_into_the_decoder(
    small: SvdConfig, tiny_checkpoint: Path, complete: Networks, window: np.ndarray, mixing: bool
) -> None:
    """Against the forward of the complete UNet, whose blocks compute three layers at once."""
    wanted = request(mixing, 9, 13, *UPS)
    cut = implementations.load_networks("diffusers", tiny_checkpoint, small.architecture, Needs("up_12", mixing=mixing))
    plain = compute_plain_window(small, complete, wanted, window, NOISE)
    found = means(small, cut, wanted, window)
    assert set(found) == set(plain)
    for place, mean in found.items():
        assert mean.shape[1] == plain[place].shape[1] == small.channels(Cell(timestep=20, layer=place[1]))
        assert float((mean[:3] - plain[place][:3]).norm() / plain[place][:3].norm()) < 5e-6, place
    # Each is a separate layer.
    narrow = [found[(20, layer)] for layer in ("up_10", "up_11", "up_12")]
    assert not torch.allclose(narrow[0], narrow[1], rtol=0.1)
    assert not torch.allclose(narrow[1], narrow[2], rtol=0.1)


@pytest.mark.slow
def test_a_decoder_is_cut_after_the_requested_layer(
    small: SvdConfig, tiny_checkpoint: Path, complete: Networks, window: np.ndarray
) -> None:
    every = means(small, complete, request(False, *UPS), window)
    sizes = []
    for last in ("up_1", "up_6", "up_11"):
        cut = implementations.load_networks("diffusers", tiny_checkpoint, small.architecture, Needs(last, mixing=False))
        assert torch.equal(means(small, cut, request(False, last), window)[(20, last)], every[(20, last)])
        sizes.append(sum(p.numel() for p in cut.unet.parameters()))  # type: ignore[attr-defined]
    assert sizes == sorted(set(sizes))
    with pytest.raises(StopIteration):
        next(_beyond(cut, "up_11"))


def _beyond(loaded: Networks, last: str) -> Iterator[torch.Tensor]:
    with torch.inference_mode():
        outputs = loaded.layers(
            torch.zeros(1, 8, 8, 16), loaded.embedding(0.1, torch.zeros(1, 768)), torch.zeros(1, 1, 64), False
        )
        for _ in range(layer_depth(last)):
            next(outputs)
        yield from outputs


def test_without_a_layer_of_the_decoder_none_of_it_is_loaded(small: SvdConfig, tiny_checkpoint: Path) -> None:
    loaded = implementations.load_networks("diffusers", tiny_checkpoint, small.architecture, Needs(13))
    assert not [name for name, _ in loaded.unet.named_parameters() if name.startswith("up_")]  # type: ignore[attr-defined]


def test_its_width_is_known_before_anything_is_loaded() -> None:
    config = load_backbone("svd_xt")
    widths = [config.channels(Cell(timestep=20, layer=layer)) for layer in SVD_LAYER_ORDER]
    assert widths == [320] * 4 + [640] * 3 + [1280] * 6 + [1280] * 6 + [640] * 3 + [320] * 3


@pytest.mark.slow
def test_cells_are_named_and_chosen(small: SvdConfig, tiny_checkpoint: Path) -> None:
    assert Cell(timestep=20, layer="up_7").name == "t20_up_07"
    assert (Cell(timestep=3, layer=9).name, Cell(layer="final").name) == ("t03_layer09", "final")
    assert parse_layers("9,up_1-up_3") == (9, "up_1", "up_2", "up_3")
    assert (parse_layers("up_12"), parse_layers("1-2"), parse_layers(None)) == (("up_12",), (1, 2), None)
    cells = choose_cells(small, layers=parse_layers("1,up_2"))
    assert [cell.name for cell in cells] == ["t20_layer01", "t20_up_02"]
    extractor = SvdExtractor([(Backbone(small, tiny_checkpoint, "sha", "diffusers"), cells)])
    frames = np.zeros((2, 40, 60, 3), np.uint8)
    (found,) = extractor.features([frames], [NOISE]).values()
    assert {name: values.shape for name, values in found.items()} == {"t20_layer01": (2, 32), "t20_up_02": (2, 128)}


@pytest.mark.parametrize("text", ["up_", "up_1-x", "upper", "up_3-up_1", "up_1,,2"])
def test_layers_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--layers"):
        parse_layers(text)


def test_a_decoder_layer_that_does_not_exist() -> None:
    for name, layer, said in (
        ("svd_xt", "up_13", "has 1 to 13 (12 input blocks and the middle block) and up_1 to up_12 (output blocks)"),
        ("videomaev2", "up_1", "layer up_1 does not exist: videomaev2 has 1 to 40"),
        ("mean_colour", "up_1", "layer up_1 does not exist: mean_colour has 'final'"),
    ):
        config = load_backbone(name)
        timestep = 20 if config.axes().timesteps else None
        assert said in explain_missing_cell(config, Cell(timestep=timestep, layer=layer))
    with pytest.raises(UsageError, match="layer up_13 does not exist"):
        Needs("up_13")
