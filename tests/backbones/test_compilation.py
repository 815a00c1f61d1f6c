"""Compiling a function: what cannot be compiled is computed as it is, and batches are filled up to one size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from repro.backbones.compilation import Compiled, describe_compiled, fill_batch, is_compiled
from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.vit.extractor import VitExtractor
from repro.core.workspace import Workspace


def double(values: torch.Tensor) -> torch.Tensor:
    return 2 * values


def test_what_cannot_be_compiled_is_computed_as_it_is_and_said_once() -> None:
    tried, said = [], list[str]()

    def fail(graph: torch.fx.GraphModule, inputs: object) -> None:
        tried.append(graph)
        raise RuntimeError("no ptxas")

    compiled = Compiled(double, said.append, fail)
    for _ in range(2):
        assert compiled(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert len(tried) == 1
    (line,) = said
    assert "no ptxas" in line
    assert "slower" in line
    working = Compiled(double, backend="eager")
    ways = ([], [compiled], [working], [compiled, working])
    assert [describe_compiled(way) for way in ways] == ["", "", ", compiled", ", compiled in part"]
    assert [is_compiled(describe_compiled(way)) for way in ways] == [False, False, True, True]


def test_an_error_of_the_function_itself_is_raised() -> None:
    """A lack of memory, for which the batch is halved, is no failure of compiling."""

    def run_out(graph: torch.fx.GraphModule, inputs: object) -> object:
        def compute(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return compute

    said: list[str] = []
    try:
        Compiled(double, said.append, run_out)(torch.ones(4))
    except torch.OutOfMemoryError:
        assert said == []
    else:
        raise AssertionError("expected an OutOfMemoryError")


def test_batches_are_filled_with_the_last_item() -> None:
    assert fill_batch(torch.arange(3.0)[:, None], 5).tolist() == [[0], [1], [2], [2], [2]]
    values = torch.arange(5)
    assert fill_batch(values, 5) is values


def test_a_compiled_video_transformer_computes_the_same_in_one_program(workspace: Workspace, tmp_path: Path) -> None:
    config = load_backbone("vjepa_tiny")
    backbone = describe_backbone(config, workspace)
    (plain,) = open_extractors([(backbone, (Cell(layer="final"),))], Execution(batch=2))
    assert isinstance(plain, VitExtractor)
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = VitExtractor(config, plain.encoder, plain.cells, "cpu", 2, compiled=True, backend=capture)
    random = np.random.default_rng(3)
    windows = [random.integers(0, 256, (length, 60, 80, 3), np.uint8) for length in (16, 16, 7)]
    expected, found = (one.features(windows, [])["vjepa_tiny"]["final"] for one in (plain, compiled))
    # Blocks of one structure and batches of one size: a program for all.
    assert len(graphs) == 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (plain.batch, compiled.batch) == ("a clip's windows by 2", "a clip's windows by 2, compiled")


def test_a_filled_batch_that_does_not_fit_is_halved(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that it is filled up to: one window says nothing of what would fit."""
    config, said = load_backbone("vjepa_tiny"), list[str]()
    backbone = describe_backbone(config, workspace)
    (opened,) = open_extractors([(backbone, (Cell(layer=1),))], Execution())
    assert isinstance(opened, VitExtractor)
    embed = opened.encoder.embed

    def embed_one(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(pixels)

    monkeypatch.setattr(opened.encoder, "embed", embed_one)
    extractor = VitExtractor(
        config, opened.encoder, opened.cells, "cpu", 4, said.append, compiled=True, backend="eager"
    )
    window = np.zeros((16, 60, 80, 3), np.uint8)
    assert extractor.features([window], [])["vjepa_tiny"]["layer01"].shape[0] == 8
    assert [line.split(": ")[-1] for line in said] == ["from here on 2 at once, not 4", "from here on 1 at once, not 2"]
