"""What `repro plan` promises: counts that are right or say they are estimates, shared work once, nothing written, no torch."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_datasets
from builders.commands import run_repro
from builders.repro_rows import colour_row, run_here

from repro.backbones.config import choose_cells
from repro.backbones.extractor import Execution
from repro.backbones.registry import backbone_names, describe_backbone, likely_identity, load_backbone
from repro.cli import plan as planning
from repro.cli.app import dispatch
from repro.core.console import Reporter
from repro.core.errors import UsageError
from repro.core.remote_file import parse_bytes
from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.config import ClipLengths, DatasetConfig, SplitFacts, dataset_names, load_dataset
from repro.datasets.manifest import ClipFacts
from repro.datasets.ucf_hmdb import CLASSES
from repro.features import rates
from repro.features.collection import folder_collection
from repro.features.rates import DeviceKind
from repro.features.store import Entry, FeatureStore
from repro.pipeline import row_data
from repro.pipeline.assumptions import count_parameters, count_threads, estimate_readout_tflop, load_assumptions
from repro.pipeline.extract import ExtractRequest, extract_collections
from repro.plan import workspace_state
from repro.plan.amounts import counted
from repro.plan.figures import plan_as_json, sum_stages
from repro.plan.plan import Plan, make_plan
from repro.plan.windows import count_audited, count_from_config
from repro.readout.heads import build_head
from repro.table.row import Row, with_precision
from repro.table.rows import load_row, row_names

LENGTHS = ClipLengths(mean=(40, 60), source="made up")


SPEEDS = load_assumptions().gpu.tflop_per_second


def tflop(windows: int, frames: int, clips: int) -> float:
    """Of SVD-XT: of 25 frames the VAE takes 65.2 for the frames, as much with noise, the tower 8.4 and the UNet 27.1.

    One clip in 25 ends with a complete window; the others' last window has a black frame in the tower and one VAE pass.
    """
    return windows * (65.2 + 27.1) + (frames + clips * 24 / 25) / 25 * (65.2 + 8.4)


def plan(workspace: Workspace, *names: str, own: Sequence[Row] = (), kind: DeviceKind = "cuda", seeds: int = 1) -> Plan:
    return make_plan([*map(load_row, names), *own], workspace, kind, seeds, "published")


# Counts of the real data sets.


def test_ucf_and_hmdb_are_counted_exactly(workspace: Workspace) -> None:
    one = plan(workspace, "ucf_hmdb")
    windows = {job.dataset: job.total.windows for job in one.jobs}
    assert windows == {"ucf101": counted(3467), "hmdb51": counted(1194 + 483)}
    both = plan(workspace, "ucf_hmdb", "hmdb_ucf")
    assert {(job.dataset, job.total.windows) for job in both.jobs} == {
        ("ucf101", counted(3467 + 1352)),
        ("hmdb51", counted(1194 + 483)),
    }
    assert both.clips == counted(3209)
    assert sum(job.total.windows.likely for job in both.jobs) == 6496
    # 1280 channels in fp32, a vector a sampled frame.
    assert sum_stages(both)["extract"][1] == counted((97114 + 30614) * 1280 * 4)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_both_parts_make_up_the_whole(name: str) -> None:
    splits = load_dataset(name).splits
    train, val, full = (splits[part].frames for part in ("train", "val", "full"))
    assert train
    assert val
    assert full
    assert train.counted
    assert val.counted
    assert full.counted
    assert train.total is not None
    assert val.total is not None
    assert (train.total + val.total) == full.total
    assert train.counted.sampled + val.counted.sampled == full.counted.sampled
    assert train.counted.windows + val.counted.windows == full.counted.windows


def test_what_is_not_counted_is_an_estimate_that_holds(workspace: Workspace) -> None:
    for name in ("ucf101", "hmdb51"):
        facts = load_dataset(name).splits["full"]
        assert facts.frames
        assert facts.frames.counted
        assert facts.clips
        guessed = count_from_config(
            counted(facts.clips), ClipLengths(total=facts.frames.total, source=""), load_backbone("svd_xt")
        )
        truth = facts.frames.counted
        assert not guessed.windows.exact
        assert guessed.windows.least < truth.windows < guessed.windows.most
        assert guessed.windows.likely == pytest.approx(truth.windows, rel=0.08)
        assert guessed.vectors.likely == pytest.approx(truth.sampled, rel=0.005)
    (kingdom,) = plan(workspace, "ak_full").jobs
    assert kingdom.total.windows.likely == pytest.approx(59_172, rel=0.01)
    assert (kingdom.total.windows.least, kingdom.total.windows.most) == pytest.approx((44_122, 74_222))
    (ego,) = plan(workspace, "charades_1to1", "charades_3to1").jobs
    assert (ego.total.windows.least, ego.total.windows.most) == pytest.approx((56_241, 69_574), rel=0.01)
    assert ego.total.clips.likely == 7013
    assert not ego.total.clips.exact  # of one split the owners do not say it


def test_another_sampling_is_not_taken_to_be_counted(workspace: Workspace) -> None:
    (job, _) = plan(workspace, "ucf_hmdb_vjepa").jobs
    assert not job.total.windows.exact
    assert 69973 / 16 < job.total.windows.likely < 69973 / 16 + 1438


def test_windows_of_audited_clips_are_those_that_extraction_cuts() -> None:
    clip = ClipFacts("a", "a.avi", ("train",), True, 1, 401, 25.0, 64, 48, 16.0, "pyav", "", "0" * 64)
    long = dataclasses.replace(clip, frames=100_000)  # 180 s at 25 frames a second: 4501 begin in them
    whole = count_audited([clip, long], load_backbone("svd_xt"))
    assert whole.windows == counted(5 + 46)
    assert whole.vectors == counted(101 + 1126)


def test_overlapping_windows_are_estimated_and_explained(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (kingdom,) = plan(workspace, "ak_full_videomaev2").jobs
    windows = kingdom.total.windows
    assert 980_000 < windows.likely < 1_020_000
    assert windows.least < windows.likely < windows.most
    assert kingdom.total.vectors.likely == windows.likely
    # 8.6 windows a second were measured on an H100 in fp32.
    assert kingdom.hours is not None
    assert kingdom.hours.likely == pytest.approx(windows.likely / 8.6 / 3600, rel=0.01)
    planning.print_plan(
        [load_row("ak_full_videomaev2")], workspace, seeds=1, protocol="published", device="cuda", as_json=False
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "~1,000,000 of 16 frames, one every 4: ~4,370,000 frames are decoded and resized once each" in said
    assert "instead of ~16,000,000 window by window" in said
    assert "1.19 times as fast as windows one by one" in said
    planning.print_plan([load_row("ak_full")], workspace, seeds=1, protocol="published", device="cuda", as_json=False)
    assert "overlapping windows" not in capsys.readouterr().out


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_limits_without_tail_windows_hold(spread: float) -> None:
    """Against the sum over made-up clips, some of them shorter than a window."""
    config = load_backbone("videomaev2")
    lengths = [int(n) for n in np.random.default_rng(3).lognormal(np.log(60), spread, 500)]
    truth = sum(config.frames.windows(n) for n in lengths)
    guessed = count_from_config(counted(len(lengths)), ClipLengths(total=sum(lengths), source=""), config)
    assert not guessed.windows.exact
    assert guessed.windows.least <= truth <= guessed.windows.most
    assert guessed.windows.likely == pytest.approx(truth, rel=0.08)


def test_clips_that_are_read_completely_are_counted_completely() -> None:
    clip = ClipFacts("a", "a.avi", ("train",), True, 1, 10_000, 25.0, 64, 48, 400.0, "pyav", "", "0" * 64)
    assert count_audited([clip], load_backbone("videomaev2")).windows == counted((10_000 - 16) // 4 + 1)
    # 180 s at 25 frames a second, every 4th of them.
    assert count_audited([clip], load_backbone("videomaev2_tubelet")).windows == counted(-(-1126 // 16))


# What rows share.


def test_shared_work_is_counted_once(workspace: Workspace) -> None:
    everything = plan(workspace, *row_names())
    jobs = [(job.dataset, job.backbone, job.cell) for job in everything.jobs]
    assert len(jobs) == len(set(jobs)) == 16
    assert [one.name for one in everything.downloads] == [
        "animal_kingdom", "charades_ego", "ucf101", "hmdb51", "svd_xt", "videomaev2", "vjepa",
    ]  # fmt: skip
    weights = next(one for one in everything.downloads if one.name == "svd_xt")
    assert len(weights.rows) == 12  # also those of sdv2, which is the same file
    kingdom = next(job for job in everything.jobs if job.dataset == "animal_kingdom")
    assert kingdom.splits == ("full_train", "full_test")  # unseen species are among them
    assert kingdom.total.clips == counted(30_100)
    assert everything.clips.likely == 30_100 + 7_013 + 3_209
    extract, both_ways = (
        sum_stages(one)["extract"][0] for one in (everything, plan(workspace, "ucf_hmdb", "hmdb_ucf"))
    )
    assert extract is not None
    assert both_ways is not None
    apart = sum(job.hours.likely for row in everything.rows for job in row.jobs if job.hours)
    assert extract.likely < 0.9 * apart
    assert both_ways.likely == pytest.approx(tflop(6496, 97114 + 30614, 3209) / SPEEDS["published"] / 3600)
    # svd_xt and sdv2 share all networks but the UNet; the video transformers share nothing.
    diffusion = plan(workspace, *(name for name in row_names() if not name.endswith(("_vjepa", "_videomaev2"))))
    together = sum_stages(diffusion)["extract"][0]
    assert together is not None
    assert together.likely < 0.65 * sum(job.hours.likely for job in diffusion.jobs if job.hours)


# Assumptions.


def test_every_row_has_assumptions(workspace: Workspace) -> None:
    named = set(load_assumptions().tflop_per_window)
    assert {load_row(name).backbone for name in row_names()} <= named <= set(backbone_names())
    for name in dataset_names():
        for split, facts in load_dataset(name).splits.items():
            assert name == "smoke" or (facts.frames and (facts.clips or facts.estimated_clips)), f"{name}/{split}"


def test_the_readouts_work_is_of_its_parameters() -> None:
    recipe = load_row("ak_full").readout
    real = sum(p.numel() for p in build_head(recipe.model_copy(update={"layers": 1}), 256, 12).parameters())
    assert count_parameters(recipe.model_copy(update={"layers": 1}), 256, 12) == pytest.approx(real, rel=0.01)
    assert count_parameters(recipe, 1280, 140) == pytest.approx(98.4e6, rel=0.005)
    # Both benchmarks at the rate of one thread (benchmarks/README.md): seconds an epoch.
    for name, seconds, train, test in (("ak_full", 1.62, 32 * 38, 8 * 38), ("ucf_hmdb", 2.17, 32 * 49.7, 27 * 26.7)):
        once = load_row(name).readout.model_copy(update={"epochs": 1})
        work = estimate_readout_tflop(once, 512, 12, train, test)
        assert work / load_assumptions().readout.cpu_thread_tflop_per_second == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("9.56 GB", 9.56e9), ("about 11 GB", 11e9), ("2 to 3 MB", 3e6), ("10.4 GB, of which 2.5 GB are kept", 10.4e9), ("large", None)],
)  # fmt: skip
def test_sizes_in_words(size: str, expected: float | None) -> None:
    assert parse_bytes(size) == expected


def test_identities_are_found_without_loading(workspace: Workspace) -> None:
    for name in ("mean_colour", "svd_xt", "sdv2"):
        config = load_backbone(name)
        assert likely_identity(config, workspace) == describe_backbone(config, workspace, to_compute=False).identity()
    assert likely_identity(load_backbone("vjepa"), workspace) is None  # which file is not known before it is here


# Tiny data sets in a workspace.


@pytest.fixture
def place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with tiny UCF101 and HMDB51; their clips are taken to have 40 to 60 frames, and have 9."""
    configs = {
        "ucf101": tiny_datasets.ucf101(workspace.data / "ucf101"),
        "hmdb51": tiny_datasets.hmdb51(workspace.data / "hmdb51"),
    }
    for name, config in configs.items():
        splits = {split: SplitFacts(clips=facts.clips, frames=LENGTHS) for split, facts in config.splits.items()}
        configs[name] = config.model_copy(update={"splits": splits})

    def opened(config: DatasetConfig, workspace: Workspace) -> registry.Dataset:
        return registry.open_dataset(configs[config.name], workspace)

    monkeypatch.setattr(row_data, "open_dataset", opened)
    monkeypatch.setattr(workspace_state, "load_dataset", lambda name: configs[name])
    monkeypatch.setattr("repro.judge.fitness.row_datasets", lambda row: configs)
    return workspace


def row() -> Row:
    return colour_row("ucf_hmdb", epochs=2)


def audit(workspace: Workspace, name: str, frames: int) -> None:
    tiny_datasets.write_audit(workspace_state.load_dataset(name), workspace, frames)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): ((s := p.stat()).st_mtime_ns, s.st_size) for p in sorted(folder.rglob("*"))}


def test_an_audits_frames_override(place: Workspace) -> None:
    train, test = plan(place, own=[row()]).jobs
    assert train.basis == "estimated from made up"
    audit(place, "ucf101", frames=250)  # 63 sampled, 3 windows
    train, test = plan(place, own=[row()]).jobs
    assert train.total.windows == counted(15 * 3)
    assert train.basis == "frames counted by `repro data audit`"
    assert not test.total.windows.exact


def test_features_that_are_there_are_subtracted(place: Workspace) -> None:
    audit(place, "ucf101", frames=250)
    clips = registry.list_dataset(workspace_state.load_dataset("ucf101"), place).split("train").clips
    config = load_backbone("mean_colour")
    store = FeatureStore.open(place, "mean_colour", describe_backbone(config, place).identity(), "ucf101")
    for clip in clips[:5]:
        store.write_clip(clip.id, Entry({"final": np.zeros((63, 128), np.float32)}, "0" * 64, "pyav"))
    store.write_clip(clips[5].id, Entry({"layer01": np.zeros((63, 128), np.float32)}, "0" * 64, "pyav"))
    store.clip_path(clips[6].id).write_bytes(b"cut off")
    before = everything_in(place.root)
    train, test = plan(place, own=[row()]).jobs
    assert (train.stored_clips, test.stored_clips) == (5, 0)
    assert train.remaining.windows == counted(10 * 3)
    assert train.total.windows == counted(15 * 3)
    assert train.disk == counted(10 * 63 * 128 * 4)
    assert everything_in(place.root) == before


@pytest.mark.slow
def test_a_run_leaves_its_rate_and_is_reused(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = plan(place, own=[row()], kind="cpu")
    assert [job.hours for job in fresh.jobs] == [None, None]  # hours of a CPU are not made up
    run_here(row(), place)
    before = everything_in(place.root)
    done = plan(place, own=[row()], kind="cpu", seeds=3)
    capsys.readouterr()
    assert [(job.stored_clips, job.remaining.windows) for job in done.jobs] == [(15, counted(0)), (24, counted(0))]
    assert [job.hours for job in done.jobs] == [counted(0), counted(0)]
    (one,) = done.rows
    assert (one.readouts.seeds, one.readouts.recorded, one.readouts.measured_on) == (3, 1, "cpu")
    assert everything_in(place.root) == before
    found = plan_as_json(done)["rows"][0]
    assert found["here"] == "data, features of 39 clips, 1 run"
    (rate,) = rates.load_rates(place)  # of HMDB51, the later, less the first batch
    assert (rate.backbone, rate.cells, rate.kind, rate.windows) == ("mean_colour", ("final",), "cpu", 23)
    other = row().model_copy(update={"version": row().version + 1})
    assert plan(place, own=[other]).rows[0].readouts.recorded == 0


# Rates.


def remember(
    workspace: Workspace,
    windows: int = 100,
    device: str = "NVIDIA H200",
    cell: str = "t20_layer09",
    compiled: bool = False,
) -> None:
    identity = likely_identity(load_backbone("svd_xt"), workspace)
    assert identity is not None
    rates.record_rate(workspace, "svd_xt", identity, (cell,), {"device": device}, windows, 50.0, compiled=compiled)


def test_a_measured_rate_overrides_the_assumed_one(workspace: Workspace) -> None:
    assumed = plan(workspace, "ucf_hmdb").jobs[0]
    assert assumed.rate is None
    assert assumed.hours is not None
    assert assumed.hours.likely == pytest.approx(tflop(3467, 69973, 1438) / SPEEDS["published"] / 3600)
    remember(workspace)
    measured = plan(workspace, "ucf_hmdb", "ucf_hmdb_sdv2").jobs
    assert measured[0].hours is not None
    assert measured[0].hours.likely == pytest.approx(3467 / 2 / 3600)
    sdv2 = next(job for job in measured if job.backbone == "sdv2")
    assert sdv2.rate is None  # another backbone
    elsewhere = plan(workspace, "ucf_hmdb", kind="cpu").jobs[0]  # another kind of device
    assert elsewhere.rate is None
    assert elsewhere.hours is not None
    assert elsewhere.hours.likely == pytest.approx(tflop(3467, 69973, 1438) / 0.11 / count_threads() / 3600)
    exact = make_plan([with_precision(load_row("ucf_hmdb"), "fp32")], workspace, "cuda", 1, "published").jobs[0]
    assert (exact.backbone, exact.precision, exact.rate) == ("svd_xt precision=fp32", "fp32", None)  # another precision
    assert exact.hours is not None
    assert exact.hours.likely == pytest.approx(tflop(3467, 69973, 1438) / SPEEDS["fp32"] / 3600)
    remember(workspace, windows=200)
    assert [rate.windows for rate in rates.load_rates(workspace)] == [200]  # in its place
    remember(workspace, windows=19)
    assert [rate.windows for rate in rates.load_rates(workspace)] == [200]  # a few more windows say less


def test_plans_take_the_speed_of_compiled_networks_if_it_was_measured(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def print_plan() -> str:
        planning.print_plan(
            [load_row("ucf_hmdb")], workspace, seeds=1, protocol="published", device="cuda", as_json=False
        )
        return capsys.readouterr().out

    remember(workspace)
    assert "uncompiled; an extraction of many clips compiles and is faster" in " ".join(print_plan().split())
    remember(workspace, windows=200, compiled=True)
    remember(workspace, windows=300)  # newer, and of a trial with few clips
    rate = plan(workspace, "ucf_hmdb").jobs[0].rate
    assert rate is not None
    assert rate.windows == 200
    assert "uncompiled" not in print_plan()


def test_repro_extract_leaves_its_rate(rendered: dict[str, Path], workspace: Workspace) -> None:
    folder = next(iter(rendered.values())).parent
    config = load_backbone("mean_colour", {"frames.window": "5"})
    request = ExtractRequest((folder_collection(folder),), ((config, choose_cells(config)),))
    extract_collections(request, workspace, Execution(), Reporter())
    (rate,) = rates.load_rates(workspace)
    assert (rate.backbone, rate.cells, rate.device) == ("mean_colour", ("final",), "cpu")
    assert rate.windows == 2 + 6 + 11  # of 40, 104 and 212 frames; the first batch, of 11, has one
    config = load_backbone("mean_colour", {"frames.window": "5"})
    identity = likely_identity(config, workspace)
    assert identity is not None
    assert rates.find_rate([rate], identity, "final", "cpu") == rate
    usual = likely_identity(load_backbone("mean_colour"), workspace)
    assert usual is not None
    assert rates.find_rate([rate], usual, "final", "cpu") is None


def test_rates_that_say_nothing_are_not_taken(workspace: Workspace) -> None:
    remember(workspace, windows=rates.FEWEST_WINDOWS - 1)
    assert not rates.rates_path(workspace).exists()
    remember(workspace, cell="t10_layer09")
    assert plan(workspace, "ucf_hmdb").jobs[0].rate is None


def test_damaged_rates_are_said_and_set_aside_when_there_are_new_ones(workspace: Workspace) -> None:
    workspace.root.mkdir(parents=True)
    rates.rates_path(workspace).write_text('{"format": 1, "rates": [{}]}')
    assert "rates.json: not what `repro extract` wrote" in " ".join(plan(workspace, "ucf_hmdb").problems)
    remember(workspace)
    assert len(rates.load_rates(workspace)) == 1
    assert (workspace.root / "rates.json.damaged1").exists()


# The command.


def lists(data: Path) -> None:
    """Lists in the publishers' layout with as many clips as the real ones."""
    ucf, hmdb = data / "ucf101" / "ucfTrainTestlist", data / "hmdb51" / "testTrainMulti_7030_splits"
    ucf.mkdir(parents=True)
    hmdb.mkdir(parents=True)
    for name, groups, clips in (("trainlist01", "08", 1438), ("testlist01", "01", 571)):
        lines = [f"Fencing/v_Fencing_g{groups}_c{number}.avi" for number in range(clips)]
        (ucf / f"{name}.txt").write_text("\n".join(lines))
    for label in CLASSES:
        lines = [f"Film_{n}_{label}_f_cm_np1_ri_med_{n}.avi {1 if n < 70 else 2}" for n in range(100)]
        (hmdb / f"{label}_test_split1.txt").write_text("\n".join(lines))


def test_the_command_in_a_workspace_with_features_takes_no_torch(workspace: Workspace) -> None:
    lists(workspace.data)
    (workspace.data / "ucf101" / "UCF-101").mkdir()
    identity = likely_identity(load_backbone("svd_xt"), workspace)
    assert identity is not None
    store = FeatureStore.open(workspace, "svd_xt", identity, "ucf101")
    vectors = np.zeros((2, 1280), np.float32)
    store.write_clip("v_Fencing_g08_c7", Entry({"t20_layer09": vectors}, "0" * 64, "pyav"))
    before = everything_in(workspace.root)
    code = (
        "import sys; from repro.__main__ import run; run(sys.argv[1:]);"
        "print(sorted({'torch', 'diffusers', 'transformers', 'mlflow', 'sklearn', 'av'} & set(sys.modules)), file=sys.stderr)"
    )
    words = ["plan", "ucf_hmdb", "hmdb_ucf_sdv2", "--json", "--workspace", str(workspace.root)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert done.stderr == "[]\n"
    assert everything_in(workspace.root) == before
    found = json.loads(done.stdout)
    assert set(found) == {
        "workspace", "device", "rows", "downloads", "clips", "extractions", "passes", "savings", "stages", "steps", "assumed",
        "notes",
    }  # fmt: skip
    job = found["extractions"][0]
    assert (job["dataset"], job["splits"], job["clips_reused"]) == ("ucf101", ["train"], 1)
    assert job["windows"] == {"likely": 3467, "least": 3467, "most": 3467, "exact": True}
    assert job["windows_to_compute"]["exact"] is False
    assert job["windows_to_compute"]["likely"] == round(3467 * 1437 / 1438)
    assert set(found["stages"]) == {"fetch", "prepare", "extract", "readout"}
    first = found["rows"][0]
    assert first["row"] == "ucf_hmdb"
    assert [one["what"] for one in first["missing"]] == [
        "data hmdb51",
        "checkpoint svd_xt",
        "clips of ucf101/train",
    ]
    assert first["readout"]["epochs"] == 15
    assert [one["name"] for one in found["downloads"]] == ["ucf101", "hmdb51", "svd_xt"]
    assert [one["ready"] for one in found["downloads"]] == [True, False, False]
    assert found["assumed"]["gpu"]["tflop_per_second"]["fp32"] == 30
    assert "`repro data status hmdb51" in " ".join(found["notes"])


def test_what_has_been_fetched_is_not_fetched_again(workspace: Workspace) -> None:
    archives = workspace.data / "hmdb51" / "archives"
    archives.mkdir(parents=True)
    (archives / "test_train_splits.zip").write_bytes(b"zip")
    (archives / "hmdb51_org.zip.part").write_bytes(b"x" * 958)
    workspace.checkpoints.mkdir(parents=True)
    (workspace.checkpoints / "svd_xt.safetensors").write_bytes(b"weights")
    one = plan(workspace, "ucf_hmdb")
    left = {found.name: found.bytes_to_download for found in one.downloads}
    assert left["hmdb51"] == counted(4_246_812_000)
    assert left["svd_xt"] == counted(0)


def test_the_tables_name_everything_in_80_columns(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    planning.print_plan(
        [*map(load_row, row_names())], workspace, seeds=1, protocol="published", device=None, as_json=False
    )
    said = capsys.readouterr().out
    for name in row_names():
        assert len(re.findall(rf"^{name} ", said, re.MULTILINE)) == 1
    table = said.split("data sets and checkpoints")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "59,000 (44,100 to 74,200)" in said
    assert "ASSUMED, no GPU was measured: sustained on one NVIDIA H100 or H200" in said
    assert "GPU memory of svd_xt in published: 13.9 GB with --batch 5 (the default), 50.1 GB with --batch 25" in said
    for licence in ("non-commercial use; no redistribution", "Stability AI Community License", "CC BY-NC 4.0 (https"):
        assert said.count(licence) == 1


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["all"], "--precision fast --precision fp16"),
        (["ucf_hmdb"], "--precision fast"),
        (["ucf_hmdb_vjepa"], "--precision fp16"),
        (["ucf_hmdb", "--device", "cpu"], ""),  # reduced precisions are no faster there
        (["ucf_hmdb", "--precision", "fp32"], ""),
    ],
)
def test_the_quickest_precisions_are_priced(workspace: Workspace, words: list[str], options: str) -> None:
    said = run_repro("plan", *words, "--workspace", workspace.root).out
    found = re.findall(r"^with (.*?): (.*) of extraction in place of (.*?);", said, re.MULTILINE)
    assert [used for used, _, _ in found] == [options] * bool(options)
    for used, quick, usual in found:
        stage = r"^extract +((?:< )?\S+ \S+)"
        asked = run_repro("plan", *words, *used.split(), "--workspace", workspace.root).out
        assert [quick, usual] == [re.findall(stage, one, re.MULTILINE)[0] for one in (asked, said)]


def test_a_dry_run_says_what_is_missing_and_does_nothing(tmp_path: Path) -> None:
    done = run_repro("ucf_hmdb", "--dry-run", "--seeds", "2", "--workspace", tmp_path / "none")
    assert (done.code, done.err) == (0, "")
    assert all(re.search(rf" {windows} +none ", done.out) for windows in ("3,467", "1,677"))
    assert done.out.endswith(f"\nto get these: repro fetch ucf_hmdb --accept-license --workspace {tmp_path}/none\n")
    assert "readouts a row: 2; a verdict needs 5" in done.out
    assert not (tmp_path / "none").exists()
    same = run_repro("plan", "ucf_hmdb", "--seeds", "2", "--workspace", tmp_path / "none")
    assert same.out == done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ak_ful"], "unknown row 'ak_ful'; did you mean 'ak_full'"),
        (["all", "nothing"], "unknown row 'nothing'"),
        (["smoke"], "part of the smoke job: run `repro smoke`"),
        (["ak_full", "--device", "tpu"], "--device tpu: expected cpu, cuda or cuda:N"),
    ],
)
def test_mistakes(workspace: Workspace, words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        dispatch(["plan", *words, "--workspace", str(workspace.root)])


def test_a_data_set_whose_lengths_are_not_known_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_dataset("charades_ego")
    bare = config.model_copy(update={"splits": {**config.splits, "first_train": SplitFacts(clips=3085)}})
    monkeypatch.setattr(workspace_state, "load_dataset", lambda name: bare)
    with pytest.raises(UsageError, match=r"splits.first_train does not say how long its clips are"):
        plan(workspace, "charades_1to1")


def test_an_extra_is_planned_as_it_is_configured(workspace: Workspace) -> None:
    """Other windows are other windows, in number and in work, and no features of the row it is like; texts need their tower."""
    names = ("ak_full", "ak_full_window10", "ak_full_action_text")
    plan = make_plan([load_row(name) for name in names], workspace, "cuda", 1, "published")
    whole, short, texts = plan.rows
    assert short.jobs[0].total.windows.likely > 2 * whole.jobs[0].total.windows.likely
    assert whole.jobs[0].tflop == pytest.approx(2.5 * (short.jobs[0].tflop or 0))
    assert {job.backbone for job in plan.jobs} == {
        "svd_xt", "svd_xt frames.window=10",
        "svd_xt conditioning.source=actions conditioning.actions_of=animal_kingdom/full_train",
    }  # fmt: skip
    assert [one.name for one in texts.downloads] == ["animal_kingdom", "svd_xt", "openclip_text"]
    assert [one.name for one in whole.downloads] == ["animal_kingdom", "svd_xt"]
