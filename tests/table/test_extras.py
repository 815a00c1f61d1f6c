"""Rows of kind extra: each is what the release's config says, runs like a row, and is never judged."""

import json
import re
from pathlib import Path

import pytest
from builders import tiny_datasets
from builders.commands import ROOT, run_repro
from builders.records import record, write_with_evidence
from builders.repro_rows import colour_row, read_out_here, run_here

from repro.backbones.extractor import Backbone
from repro.backbones.registry import backbone_names
from repro.backbones.svd.config import SvdConfig
from repro.cli.judge.check import check
from repro.cli.options import CommonOptions
from repro.core.config import validate_config
from repro.core.errors import Exit, MissingError, NothingToCheckError, UsageError
from repro.core.hashing import content_key
from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.config import DatasetConfig
from repro.pipeline import row_data
from repro.pipeline.stored_row import extract_command
from repro.records.record import find_runs
from repro.table import extras, rows
from repro.table.row import Row, row_backbone, row_datasets
from repro.table.rows import extra_names, load_row, row_names

# Of each config below generative-models/configs: epochs, learning rate, weight decay, mixup, length, layers (0: linear),
# loss and seed, as they are written there; None where the grid's script, which is not released, says it.
AK = (15, 3e-5, 1e-4, 0.2, 150, 6, "focal 0.25", 52)
CHARADES = (10, 1e-4, 1e-3, 0.3, 400, 7, "focal 1", 62)
CHARADES_15, CHARADES_20 = ((n, *CHARADES[1:]) for n in (15, 20))
UCF_HMDB = (15, 1e-5, 1e-4, 0.0, 500, 6, "cross_entropy", 42)
LINEAR = (50, 1e-5, 1e-4, 0.2, 150, 0, None, None)
LINEAR_300, LINEAR_400 = ((*LINEAR[:4], n, *LINEAR[5:]) for n in (300, 400))
RELEASE: dict[str, tuple[object, ...]] = {
    "ablations/actioncond.bash": AK,
    "ablations/bce.bash": (*AK[:6], "bce", 52),
    "ablations/nocond.bash": AK,
    **{f"ablations/ws{window}.bash": AK for window in (10, 16, 21, 25)},
    "lineargrid/ak.bash": LINEAR,
    "lineargrid/akunseen.bash": LINEAR,
    **{f"lineargrid/{name}.bash": LINEAR_300 for name in ("hmdb", "hmdbucf", "ucf101", "ucfhmdb")},
    "sdv2/charades1-3.bash": CHARADES,
    "svd/animalkingdom.bash": AK,
    "svd/animalkingdom_unseen.bash": AK,
    "svd/charades1-1.bash": CHARADES_15,
    "svd/charades1-3.bash": CHARADES,
    "svd/charades3-1.bash": CHARADES,
    "svdxt/animalkingdom.bash": AK,
    "svdxt/animalkingdom_unseen.bash": AK,
    "svdxt/charades1-1.bash": (12, *CHARADES[1:7], 78),
    "svdxt/charades1-3.bash": CHARADES,
    "svdxt/charades3-1.bash": CHARADES,
    "svdxt/hmdbucf.bash": UCF_HMDB,
    "svdxt/ucfhmdb.bash": UCF_HMDB,
    "transformergrid/charades1-1val.bash": (20, 1e-4, 1e-3, 0.2, 400, 7, None, None),
    "transformergrid/charades1-1valmlp.bash": LINEAR_400,
    "transformergrid/charades1-3.bash": (15, 1e-4, 1e-3, 0.3, 400, 7, None, None),
    "transformergrid/charades1-3val.bash": (20, 1e-4, 1e-3, 0.2, 400, 7, None, None),
    "transformergrid/hmdb.bash": (15, 1e-5, 1e-4, 0.2, 300, 6, None, None),
    "transformergrid/ucf101.bash": (15, 1e-5, 1e-4, 0.2, 500, 6, None, None),
    "videoMAE/charades1-3.bash": CHARADES_20,
    "vjepa/charades1-3.bash": CHARADES_20,
}
# Extras that no config of the release has.
OURS = {
    "ak_full_empty_text",
    *(f"ak_actions{suffix}" for suffix in ("", "_videomaev2", "_vjepa", "_sdv2")),
    *(f"{setting}_latent_noise" for setting in ("ak_full", "ak_unseen", "ucf_hmdb", "hmdb_ucf")),
    *(f"ucf_hmdb_up_{n:02d}" for n in range(1, 13)),
}
NO_ROW = {"transformergrid/aksub.bash", "transformergrid/ucfcrime.bash", "transformergrid/xdviolence.bash"}
SPLITS = {
    "charades1-1": ("charades_ego/first_train", "charades_ego/first_test"),
    "charades1-3": ("charades_ego/first_train", "charades_ego/third_test"),
    "charades3-1": ("charades_ego/third_train", "charades_ego/first_test"),
    "hmdbucf": ("hmdb51/train", "ucf101/full"),
    "ucfhmdb": ("ucf101/train", "hmdb51/full"),
    "hmdb": ("hmdb51/train", "hmdb51/val"),
    "ucf101": ("ucf101/train", "ucf101/val"),
    "animalkingdom_unseen": ("animal_kingdom/unseen_species_train", "animal_kingdom/unseen_species_test"),
    "akunseen": ("animal_kingdom/unseen_species_train", "animal_kingdom/unseen_species_test"),
}


def by_source() -> dict[str, str]:
    return {load_row(name).source: name for name in extra_names() if load_row(name).source}


def test_every_extra_is_one_of_the_releases_or_one_of_ours() -> None:
    assert set(by_source()) == set(RELEASE)
    assert {name for name in extra_names() if not load_row(name).source} == OURS
    assert len(extra_names()) == len(RELEASE) + len(OURS) == 55
    assert not set(extra_names()) & {*row_names(), *backbone_names(), *registry.user_dataset_names()}
    assert len(row_names()) == 24


@pytest.mark.parametrize("source", sorted(RELEASE))
def test_an_extra_has_the_values_of_the_releases_config(source: str) -> None:
    row = load_row(by_source()[source])
    r, values = row.readout, RELEASE[source]
    loss = f"focal {r.loss.alpha:g}" if r.loss.name == "focal" else r.loss.name
    found = (r.epochs, r.learning_rate, r.weight_decay, r.mixup, r.max_length, r.layers, loss, row.seeds.published)
    assert [ours for ours, theirs in zip(found, values, strict=True) if theirs is not None] == [
        theirs for theirs in values if theirs is not None
    ]
    assert (r.head == "linear") == (r.layers == 0)
    assert (r.batch_size, r.heads, r.warmup_epochs) == (16, 8, 4)
    folder, name = source.removesuffix(".bash").split("/")
    known = SPLITS.get(name.removesuffix("mlp").removesuffix("val"))
    assert (str(row.data.train), str(row.data.test)) == (
        known or ("animal_kingdom/full_train", "animal_kingdom/full_test")
    )
    assert row.backbone == {"videoMAE": "videomaev2", "vjepa": "vjepa", "sdv2": "sdv2", "svd": "svd"}.get(
        folder, "svd_xt"
    )
    timestep = 23 if folder == "svd" and "charades" in name else 20
    assert row.features.name == ("final" if folder in ("videoMAE", "vjepa") else f"t{timestep}_layer09")
    assert bool(row.note) or None not in values  # what the release leaves open is said


@pytest.mark.parametrize("name", extra_names())
def test_every_name_in_an_extra_resolves(name: str) -> None:
    row = load_row(name)
    assert row.kind == "extra"
    assert row.published is None
    assert row.seeds.planned == 5
    assert row.title.count(":") == 1
    assert {name.dataset for name in (row.data.train, row.data.test)} == set(row_datasets(row))
    config = row_backbone(row)
    assert config.channels(row.features) != 0
    if isinstance(config, SvdConfig) and config.conditioning.actions_of:
        name = config.conditioning.actions_of
        assert name.split in row_datasets(row)[name.dataset].splits


def test_what_differs_is_what_was_meant() -> None:
    for window in (10, 16, 21, 25):
        assert row_backbone(load_row(f"ak_full_window{window}")).frames.window == window
    assert row_backbone(load_row("ak_full_bce")).frames.window == 10  # its config reads the features of ws10
    config = row_backbone(load_row("ak_full_no_conditioning"))
    assert isinstance(config, SvdConfig)
    assert config.conditioning.source == "none"
    for name in ("ak_full_latent_noise", "ak_unseen_latent_noise", "ucf_hmdb_latent_noise", "hmdb_ucf_latent_noise"):
        config = row_backbone(load_row(name))
        assert isinstance(config, SvdConfig)
        assert config.latent_noise
    assert load_row("ucf_hmdb_up_07").features.name == "t20_up_07"
    assert str(load_row("ak_actions").data.train) == "animal_kingdom/unseen_actions_train"


def test_a_row_whose_recipe_is_a_fixed_config_is_that_config() -> None:
    """So the fixed extra, or the window of 25 frames, needs no features of its own."""
    own = {"kind", "title", "published", "source", "note"}
    for name, base in [(f"{n}_fixed", n) for n in ("ak_full", "ak_unseen", "ucf_hmdb", "hmdb_ucf")] + [
        ("ak_full_window25", "ak_full")
    ]:
        one, other = (load_row(n).model_dump(exclude=own) for n in (name, base))
        one["readout"].pop("note"), other["readout"].pop("note")
        one.pop("changes"), other.pop("changes")
        assert one == other
        assert row_backbone(load_row(name)) == row_backbone(load_row(base))


def test_features_of_a_changed_backbone_have_a_key_of_their_own() -> None:
    def key(name: str) -> str:
        row = load_row(name)
        return content_key(Backbone(row_backbone(row), Path("c"), "0" * 64, "diffusers").identity())

    changed = [name for name in extra_names() if load_row(name).changes and name != "ak_full_window25"]
    keys = {name: key(name) for name in changed}
    same = {"ak_full_bce": "ak_full_window10", "ucf_hmdb_latent_noise": "ak_full_latent_noise"}
    same |= {"ak_unseen_latent_noise": "ak_full_latent_noise", "hmdb_ucf_latent_noise": "ak_full_latent_noise"}
    for name, other in same.items():
        assert keys.pop(name) == keys[other]
    assert len(set(keys.values())) == len(keys) == 7
    assert key("ak_full") not in keys.values()
    assert key("ucf_hmdb_up_01") == key("ucf_hmdb")  # another cell of the same features
    assert key("ak_full_window25") == key("ak_full")


def test_the_table_of_the_releases_configs_is_whole() -> None:
    """Every config of the release, each with its row; or, of three, why there is none."""
    lines = re.findall(r"^\| `(\S+/\S+\.bash)` \| (.+?) \|$", (ROOT / "docs" / "extras.md").read_text(), re.MULTILINE)
    table = dict(lines)
    assert len(table) == len(lines) == 61
    published = {}
    for name in row_names():
        reporter = load_row(name).published
        assert reporter is not None
        published[reporter.command.removeprefix("bash configs/")] = name
    rows = published | by_source()
    assert set(table) == set(rows) | NO_ROW
    for source, listed in table.items():
        assert listed.startswith("none: ") if source in NO_ROW else listed == f"`{rows[source]}`"
    named = {name for name in extra_names() if f"`{name}`" in (ROOT / "docs" / "extras.md").read_text()}
    assert {name for name in OURS if "_up_" not in name} <= named


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"like": "ak_all"}, "like: 'ak_all' is none of the 24 rows"),
        ({"readout": {"epoch": 3}}, "unknown key 'readout.epoch'"),
        ({"readout": {"head": "linear"}}, "the linear head has no layers"),
        ({"features": {"timestep": 20, "layer": "up_13"}}, "layer up_13 does not exist"),
        ({"changes": {"frames.windows": "3"}}, "unknown key 'frames.windows'"),
        ({"data": {"train": "ucf101/train", "test": "ucf101/test"}}, "ucf101 has no split 'test'"),
    ],
)
def test_an_extra_that_makes_no_sense(change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = validate_config(extras.Extra, {"like": "ucf_hmdb", "title": "a: b"} | change, "here")
    monkeypatch.setattr(rows, "read_extras", lambda: {"odd": extra})
    with pytest.raises(UsageError) as caught:
        load_row("odd")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_list_shows_them_when_asked(tmp_path: Path) -> None:
    done = run_repro("list", "--all", "--workspace", tmp_path)
    assert done.code == 0
    assert all(re.search(rf"^{name} ", done.out, re.MULTILINE) for name in (*row_names(), *extra_names()))
    assert "24 rows and 55 extras" in done.out
    found = json.loads(run_repro("list", "--all", "--json", "--workspace", tmp_path).out)
    assert [entry["row"] for entry in found] == [*row_names(), *extra_names()]
    by_name = {entry["row"]: entry for entry in found}
    assert by_name["ak_full_window16"]["changes"] == {"frames.window": "16"}
    assert by_name["ak_full_window16"]["published"] is None
    assert [m["what"] for m in by_name["ak_full_action_text"]["missing"]] == [
        "data animal_kingdom", "checkpoint svd_xt", "checkpoint openclip_text",
    ]  # fmt: skip
    assert by_name["ak_full"]["kind"] == "published"


@pytest.mark.slow
def test_an_extra_is_asked_for_by_its_name(tmp_path: Path) -> None:
    done = run_repro("ucf_hmdb_up_07", "--workspace", tmp_path, env={"REPRO_DEVICE": "cpu"})
    assert done.code == 4
    assert "repro: row ucf_hmdb_up_07 cannot run; to get these: repro fetch ucf_hmdb_up_07 --accept-license" in done.err
    done = run_repro("ak_full_window17", "--workspace", tmp_path)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "did you mean 'ak_full_window" in done.err
    assert extract_command(load_row("ucf_hmdb_up_07"), "hmdb51") == (
        "repro extract hmdb51 --backbone svd_xt --timesteps 20 --layers up_7"
    )
    assert extract_command(load_row("ak_full_window16"), "animal_kingdom") == (
        "repro extract animal_kingdom --backbone svd_xt --set frames.window=16"
    )


@pytest.fixture
def place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a tiny UCF101, and rows on mean colour."""
    config = tiny_datasets.ucf101(workspace.data / "ucf101")

    def opened(_: DatasetConfig, workspace: Workspace) -> registry.Dataset:
        return registry.open_dataset(config, workspace)

    monkeypatch.setattr(row_data, "open_dataset", opened)
    return workspace


def coloured(name: str) -> Row:
    """ucf_ucf on mean colour, under another name."""
    changes = {"frames.window": "2"} if "window" in name else {}
    return colour_row("ucf_ucf", epochs=1).model_copy(update={"name": name, "changes": changes})


@pytest.mark.slow
def test_an_extra_runs_and_is_not_judged(
    place: Workspace, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Learning from a data set and tested on the same one's other clips."""
    run_here(coloured("ucf_ucf"), place)
    assert "an extra: there is no published value to judge it by" in capsys.readouterr().out
    with pytest.raises(
        MissingError, match=r"repro extract ucf101 --backbone mean_colour --set frames.window=2` extracts"
    ):
        read_out_here(coloured("ucf_ucf_window2"), place)
    run_here(coloured("ucf_ucf_window2"), place)
    first, second = (found for run in find_runs(place.runs) if (found := run.load_record()))
    assert (first.kind, first.seed, first.metric) == ("extra", 42, "top1")
    assert (first.train.name, first.test.name) == ("ucf101/train", "ucf101/val")
    assert first.features.key != second.features.key
    assert second.features.identity["frames"]["window"] == 2
    with pytest.raises(NothingToCheckError, match="no run record of a published row"):
        check(strict=True, common=CommonOptions(workspace=place.root))
    capsys.readouterr()
    write_with_evidence(place.runs, record("ucf_hmdb", 42, 0.776))
    assert check(common=CommonOptions(workspace=place.root)) is Exit.OK
    reporter = capsys.readouterr()
    assert "not judged: 2 records of extras, which have no published value: ucf_ucf, ucf_ucf_window2" in reporter.out
    assert reporter.err == ""
    assert reporter.out.splitlines()[-1].startswith("24 rows: 0 reproduced, 0 consistent, 1 within margin")
    check(common=CommonOptions(workspace=place.root, as_json=True))
    report = json.loads(capsys.readouterr().out)
    assert [extra["row"] for extra in report["extras_not_judged"]] == ["ucf_ucf", "ucf_ucf_window2"]
    assert report["records_not_judged"] == []
    assert len(report["verdicts"]) == 24
