"""`repro show`: the maps are those whose means the features are, and the page is whole, harmless and about its clip."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from builders.commands import run_repro
from builders.videos import Video, write_video

from repro.backbones.config import Cell, choose_cells
from repro.backbones.extractor import Backbone, Execution, HasMaps
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.svd.config import SvdConfig
from repro.core.workspace import Workspace
from repro.pipeline.show.view import CellView

HOSTILE = "<img src=x onerror=alert(1)>&\"'.mp4"


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def check_maps(backbone: Backbone, cells: tuple[Cell, ...], frames: np.ndarray) -> None:
    (extractor,) = open_extractors([(backbone, cells)], Execution())
    assert isinstance(extractor, HasMaps)
    noise = WindowNoise(0, "0" * 64, 0)
    usual = extractor.features([frames], [noise])
    features, maps = extractor.features_with_maps(frames, noise)
    for cell, vectors in usual[backbone.name].items():
        assert np.array_equal(features[backbone.name][cell], vectors)
        kept = maps[backbone.name][cell]
        assert kept.ndim == 4
        assert np.ptp(kept, axis=(1, 2)).max() > 0
        np.testing.assert_allclose(kept.mean(axis=(1, 2)), vectors, rtol=1e-4, atol=1e-5)
    # Nothing is kept once the maps are returned.
    assert extractor.features([frames], [noise])[backbone.name].keys() == usual[backbone.name].keys()


@pytest.mark.parametrize(
    ("name", "changes"), [("vjepa_tiny", {}), ("videomaev2_tiny", {}), ("videomaev2_tiny", {"pooling": "tubelet"})]
)
@pytest.mark.parametrize("count", [16, 3])
def test_features_are_the_means_of_the_maps(
    name: str, changes: dict[str, str], count: int, workspace: Workspace
) -> None:
    config = load_backbone(name, changes)
    frames = np.random.default_rng(3).integers(0, 255, (count, 48, 64, 3), dtype=np.uint8)
    check_maps(describe_backbone(config, workspace), choose_cells(config, None, (2, "final")), frames)


def test_features_of_svd_are_the_means_of_the_maps(tiny: SvdConfig, tiny_checkpoint: Path) -> None:
    small = tiny.model_copy(update={"frames": tiny.frames.model_copy(update={"window": 3})})
    frames = np.random.default_rng(3).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
    cells = tuple(Cell(timestep=timestep, layer=layer) for timestep in (5, 20) for layer in (2, 9, "up_2"))
    check_maps(Backbone(small, tiny_checkpoint, "0", "diffusers"), cells, frames)


def test_components_are_those_of_the_singular_vectors() -> None:
    vectors = np.random.default_rng(1).standard_normal((20, 6)) * [5, 3, 2, 1, 1, 1] + 100
    found = CellView("final", vectors, None).compute_components()
    left, values, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert found.shares == pytest.approx((values**2 / (values**2).sum())[:3])
    assert np.abs(found.scores) == pytest.approx(np.abs(left[:, :3] * values[:3]))
    assert CellView("final", np.ones((4, 6), np.float32), None).compute_components().shares == ()


def test_a_page_loads_nothing_names_its_clip_and_escapes_it(clip: Path, tmp_path: Path) -> None:
    hostile = tmp_path / HOSTILE
    shutil.copy(clip, hostile)
    words = ("--backbone", "vjepa_tiny", "--layers", "1,final", "--workspace", tmp_path / "workspace")
    done = run_repro("show", hostile, *words, "-o", tmp_path / "page.html")
    assert (done.code, done.err) == (0, "")
    source = (tmp_path / "page.html").read_text()
    page = Page(source)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes.get("aria-label") or attributes.get("aria-hidden")
    assert "url(" not in source
    assert "://" not in source
    assert page.text.count(HOSTILE) >= 3  # in both titles and the facts
    # 10 sampled frames are 5 tubelets: as many frames, and maps of each of two cells.
    assert [tag for tag, _ in page.elements].count("img") == 15
    for fact in ("vjepa_tiny", "precision fp32", "sha256", "of the variance", "layer01", "--layers 1,final", "0.00 s"):
        assert fact in page.text
    assert not list((tmp_path / "workspace").glob("features/*"))
    before = source
    assert run_repro("show", hostile, *words, "-o", tmp_path / "page.html").code == 0
    assert (tmp_path / "page.html").read_text() == before


def test_what_a_backbone_or_a_short_clip_does_not_have_is_left_out_with_a_reason(tmp_path: Path) -> None:
    two = write_video(tmp_path / "two.mp4", Video("two"), frames=2)
    assert run_repro("show", two, "--backbone", "mean_colour", "--json", cwd=tmp_path).code == 0
    text = Page((tmp_path / "two-mean_colour.html").read_text()).text
    assert "mean_colour gives no spatial maps" in text
    assert "a single vector, so there is nothing to compare over time" in text
    assert "Class scores over time" not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.mp4"], 4, "no such file"),
        (["."], 4, "a folder: name the files in it"),
        (["text.mp4"], 4, "not a video that can be decoded"),
        (["text.mp4", "-o", "text.mp4"], 2, "expected the name of an HTML file"),
        (["text.mp4", "--backbone", "svd_xt_tiny", "--layers", "1-13"], 2, "at most 12"),
        (["text.mp4", "--row", "ucf_hmdb", "--backbone", "vjepa"], 2, "ucf_hmdb reads svd_xt"),
        (["text.mp4", "--row", "ucf_hmdb"], 4, "no trained readout"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    backbone = [] if "--backbone" in words or "--row" in words else ["--backbone", "mean_colour"]
    done = run_repro("show", *words, *backbone, cwd=tmp_path)
    assert done.code == code
    assert said in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "text.mp4").read_text() == "no video"
    assert not list(tmp_path.glob("*.html"))
