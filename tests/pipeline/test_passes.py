"""How clips are divided into passes: every needed cell of every clip once, none that nobody reads, one backbone of a name a pass."""

import random

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.registry import load_backbone
from repro.pipeline.passes import UnstoredCell, plan_passes

FINAL, OTHER = Cell(layer="final"), Cell(layer=1)
COLOUR, JEPA = load_backbone("mean_colour"), load_backbone("vjepa_tiny")
SHORT = load_backbone("mean_colour", {"frames.window": "5"})


def test_clips_are_grouped_by_what_is_needed_of_them() -> None:
    found = plan_passes([UnstoredCell("a", COLOUR, FINAL, ["x", "y", "z"]), UnstoredCell("a", JEPA, FINAL, ["z", "y"])])
    assert [(one.dataset, one.backbones, one.clips) for one in found] == [
        ("a", ((COLOUR, (FINAL,)),), ("x",)),
        ("a", ((COLOUR, (FINAL,)), (JEPA, (FINAL,))), ("y", "z")),
    ]
    assert [one.is_shared for one in found] == [False, True]


def test_several_cells_of_a_backbone_are_computed_together() -> None:
    (one,) = plan_passes([UnstoredCell("a", COLOUR, FINAL, ["x"]), UnstoredCell("a", COLOUR, OTHER, ["x"])])
    assert one.backbones == ((COLOUR, (FINAL, OTHER)),)
    assert one.is_shared


def test_backbones_of_one_name_have_passes_of_their_own() -> None:
    found = plan_passes([UnstoredCell("a", config, FINAL, ["x"]) for config in (COLOUR, SHORT, JEPA)])
    assert [[config for config, _ in one.backbones] for one in found] == [[COLOUR, JEPA], [SHORT]]


def test_every_needed_cell_is_in_exactly_one_pass() -> None:
    generator = random.Random(3)
    unstored, needed = [], set()
    for number in range(40):
        config, cell = generator.choice((COLOUR, SHORT, JEPA)), generator.choice((FINAL, OTHER))
        clips = generator.sample([f"clip{n}" for n in range(12)], number % 6)
        unstored.append(UnstoredCell(generator.choice("ab"), config, cell, clips))
        needed |= {(unstored[-1].dataset, _key(config), cell, clip) for clip in clips}
    computed = []
    for one in plan_passes(unstored):
        assert len({config.name for config, _ in one.backbones}) == len(one.backbones)
        computed += [
            (one.dataset, _key(config), cell, clip)
            for config, cells in one.backbones
            for cell in cells
            for clip in one.clips
        ]
    assert len(computed) == len(set(computed))
    assert set(computed) == needed


def _key(config: BackboneConfig) -> tuple[str, int]:
    return config.name, config.frames.window
