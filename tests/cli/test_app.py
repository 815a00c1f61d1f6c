"""What a person types and reads: exit codes, one line a mistake, no traceback, quick answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders.commands import ROOT, run_process, run_repro
from builders.records import record, write_with_evidence
from safetensors.numpy import load_file, save_file

from repro.__main__ import run
from repro.core.workspace import Workspace
from repro.records.record import StoredRun
from repro.table.rows import load_row


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ak_ful"], 2, "unknown row or command 'ak_ful'; did you mean 'ak_full'?"),
        (["run", "hmdb_ufc"], 2, "unknown row 'hmdb_ufc'; did you mean 'hmdb_ucf'?"),
        (["lits"], 2, "did you mean 'list'?"),
        (["run", "smoke"], 2, "the smoke job: run `repro smoke`"),
        (["list", "--workspace", "~nosuchuser/x"], 2, "~nosuchuser/x: "),
        (["list", "--workspace", "/tmp/what?"], 2, "has a '?' in its path"),
        (["smoke", "--workspace", "/tmp/" + "x" * 300], 2, "too long"),
        (["xyzzy"], 2, "unknown row or command 'xyzzy' (`repro list`"),
        (["run"], 2, "ROW is missing (see `repro run --help`)"),
        (["run", "ak_full", "--device"], 2, "--device: its value is missing"),
        (["bundle", "smoke"], 2, "--output is missing (see `repro bundle --help`)"),
        (["list", "ak_full"], 2, "unexpected argument 'ak_full'"),
        (["list", "--bogus"], 2, "unknown option --bogus (see"),
        (["track", "--rebuilt=x"], 2, "unknown option --rebuilt; did you mean '--rebuild'?"),
        (
            ["data", "prepare", "hmdb51", "--accept-license"],
            2,
            "but of `repro fetch`, `repro submit` (see `repro data prepare --help`)",
        ),
        (["smoke", "--workers", "0"], 2, "--workers 0: expected a number from 1 to 1024"),
        (["predict", "smoke", "x.mp4", "--workers", "1025"], 2, "--workers 1025: expected a number from 1 to 1024"),
        (["ak_full", "--workers", "0"], 2, "--workers 0: expected a number from 1 to 1024"),
        (["smoke", "--workers", "two"], 2, "two"),
        (["smoke_efficientnet_lite0"], 2, "part of the smoke job: run `repro smoke --pretrained`"),
        (["smoke_mean_colour"], 2, "part of the smoke job: run `repro smoke`"),
        (["smoke", "--seeds", "1,x"], 2, "--seeds '1,x'"),
        (["smoke", "--seeds", "1,1"], 2, "--seeds '1,1'"),
        (["verify", "svd_xt"], 4, "checkpoint svd_xt: not at"),
        (["verify", "mean_colour"], 2, "nothing to compare"),
        (["verify", "nothing", "--golden", "."], 2, "unknown backbone 'nothing'"),
        (["verify", "vjepa", "--golden", "."], 2, "no .safetensors files in it"),
        (["verify", "svd_xt_tiny", "--golden", "/no/such"], 2, "no such folder"),
        (["verify", "svd_xt_tiny", "--golden", __file__], 2, f"{__file__}: a file, expected a folder"),
        (["verify", "--store", __file__], 4, f"{__file__}: a file, expected a folder"),
        (["verify", "--store", "/no/such"], 4, "/no/such: no such folder"),
        (["data", "diff", ".", "."], 2, ".: a folder, expected a file"),
        (["verify", "svd_xt_tiny", "--golden", ".", "--implementation", "x"], 2, "implementation: "),
        (["verify", "svd_xt_tiny", "--set", "size"], 2, "--set size: expected KEY=VALUE"),
        (["verify", "svd_xt_tiny", "--set", "frames.window=0"], 2, "frames.window: 0: input should be greater"),
        (["verify", "svd_xt_tiny", "--set", "size=[64, 100]"], 2, "not a multiple of 64"),
        (["verify", "svd_xt_tiny", "--device", "tpu"], 2, "--device tpu: expected cpu, cuda or cuda:N"),
        (["verify", "svd_xt_tiny", "--batch", "0"], 2, "--batch 0: expected a number from 1 on"),
        (["extract", "nothing"], 2, "'nothing' is neither a data set (animal_kingdom, "),
        (["extract", "."], 2, "no videos in it"),
        (["extract", ".", "--layers", "14"], 2, "layer 14 does not exist: svd_xt has 1 to 13"),
        (
            ["extract", ".", "--layers", "9-1"],
            2,
            "--layers 9-1: expected layers, as 9, 1,9, 1-13, up_1, up_1-up_12 or final",
        ),
        (["extract", ".", "--layers", "0"], 2, "layer 0 does not exist: svd_xt has 1 to 13"),
        (["extract", ".", "--layers", "up_0"], 2, "layer up_0 does not exist"),
        (["extract", ".", "--layers", "final"], 2, "layer final does not exist: svd_xt has"),
        (["extract", ".", "--backbone", "vjepa", "--timesteps", "20"], 2, "--timesteps: vjepa has no timesteps"),
        (["extract", ".", "--backbone", "vjepa", "--grid"], 2, "--grid: vjepa has no timesteps"),
        (["ak_full", "--protocol", "held"], 2, "--protocol held: expected published or held-out"),
        (["grid", "ak_full", "--protocol", "all"], 2, "--protocol all: expected published, held-out or both"),
        (["ak_full", "--device", "gpu"], 2, "--device gpu: expected cpu, cuda or cuda:N"),
        (["ak_full", "--dry-run", "--limit", "5"], 2, "--dry-run plans the complete row: not with --limit"),
        (["grid", "ucf_hmdb_up_01"], 2, "layers 1 to 13, and the row reads t20_up_01"),
        (
            ["extract", ".", "--timesteps", "30"],
            2,
            "timestep 30 does not exist: svd_xt has timesteps 0 (the noisiest) to 29",
        ),
        (["extract", ".", "--backbone", "svd", "--timesteps", "25"], 2, "svd has timesteps 0 (the noisiest) to 24"),
        (["extract", ".", "--backbone", "svd_xt,svd_xt"], 2, "svd_xt,svd_xt: duplicate"),
        (
            ["extract", ".", "--backbone", "vjepa", "--layers", "33"],
            2,
            "layer 33 does not exist: vjepa has 1 to 32 (transformer blocks) and 'final'",
        ),
        (
            ["extract", ".", "--backbone", "vjepa", "--set", "frames.window=15"],
            2,
            "frames.window 15 is not a multiple of 2",
        ),
        (
            ["extract", ".", "--backbone", "vjepa", "--set", "frames.overlap=16"],
            2,
            "windows of 16 frames overlap in 15 at most",
        ),
        (["extract", ".", "--set", "frames.overlap=1"], 2, "windows of SVD do not overlap"),
        (["extract", ".", "--shard", "5/4"], 2, "--shard 5/4: expected i/n"),
        (["extract", ".", "--shard", "slurm"], 2, "--shard slurm: no SLURM job array"),
        (["extract", ".", "--devices", "0,0"], 2, "--devices 0,0: expected different GPUs"),
        (["extract", ".", "--devices", "cpu,tpu"], 2, "--devices cpu,tpu: expected"),
        (["extract", ".", "--devices", "cpu", "--device", "cpu"], 2, "not with --device or --profile"),
        (["extract", ".", "--devices", "0,999"], 4, "GPU"),
        (["extract", ".", "--stored-as", "fp8"], 2, "fp8"),
        (["verify", "svd_xt_tiny", "--golden", ".", "--limit", "0"], 2, "above 0"),
        (["check", "--rules", "/no/such"], 2, "--rules /no/such: no results.csv in /no/such; shipped rule sets: 1"),
        (["svd_xt"], 2, "unknown row or command 'svd_xt'"),
        (["check"], 5, "nothing to check"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = run_repro(*words, env={"REPRO_WORKSPACE": str(tmp_path / "workspace")}, cwd=tmp_path)
    assert done.code == code
    assert said in done.err
    assert done.err.startswith("repro: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "workspace").exists()


def test_the_former_name_of_the_held_out_protocol_is_still_read(tmp_path: Path) -> None:
    plans = [
        run_repro("plan", "ak_full", "--protocol", name, "--json", cwd=tmp_path) for name in ("honest", "held-out")
    ]
    assert plans[0].code == 0
    assert plans[0].out == plans[1].out


@pytest.mark.slow
def test_a_gpu_that_was_asked_for_and_is_not_there_is_said(tmp_path: Path) -> None:
    done = run_process("ak_full", "--workspace", tmp_path, env={"REPRO_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""})
    assert done.code == 4
    # After what is missing on this machine too, and before the command that brings it.
    assert done.err.splitlines()[-2].startswith(
        "  GPU: no GPU is visible: start the container with --gpus all (docker) or --nv"
    )
    assert run_repro("ak_full", env={"REPRO_DEVICE": "tpu"}).err.startswith("repro: REPRO_DEVICE is 'tpu'")


def test_a_workspace_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        done = run_repro("smoke", "--workspace", place)
        assert done.code == 2
        assert done.err.count("\n") == 1
        assert str(place) in done.err


def test_list_shows_every_row(tmp_path: Path) -> None:
    done = run_repro("list", "--workspace", tmp_path / "none")
    assert done.code == 0
    assert done.err == ""
    assert len(re.findall(r"^(ak|charades|ucf|hmdb)_", done.out, re.MULTILINE)) == 24
    for value in ("80.79", "36.5", "51.75", "60.58"):
        assert value in done.out


def test_list_as_json_is_json_alone(tmp_path: Path) -> None:
    rows = json.loads(run_repro("list", "--json", "--workspace", tmp_path).out)
    assert len(rows) == 24
    assert {"row", "setting", "backbone", "metric", "published", "status", "missing"} <= set(rows[0])
    assert rows[0]["missing"][0]["what"] == "data animal_kingdom"


def write_all(workspace: Workspace, row: str, scores: list[float]) -> list[StoredRun]:
    planned = enumerate(scores, start=load_row(row).seeds.published)
    return [write_with_evidence(workspace.runs, record(row, seed, score)) for seed, score in planned]


@pytest.mark.parametrize(
    ("scores", "code", "strict"),
    [
        ([0.7866], 0, 1),
        ([0.7866, 0.787, 0.7862, 0.786, 0.787], 0, 1),
        ([0.9, 0.901, 0.902, 0.9, 0.9], 1, 1),
        ([0.5, 0.501, 0.502, 0.5, 0.5], 1, 1),
    ],
)
def test_check_judges_the_records(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], scores: list[float], code: int, strict: int
) -> None:
    write_all(workspace, "ak_full_sdv2", scores)
    # In this process: starting one takes longer than judging.
    assert run(["check", "--workspace", str(workspace.root)]) == code
    capsys.readouterr()
    assert run(["check", "--strict", "--json", "--workspace", str(workspace.root)]) == strict
    report = json.loads(capsys.readouterr().out)
    assert len(report["verdicts"]) == 24
    assert sum(report["counts"].values()) == 24


def test_check_leaves_a_damaged_record_out_and_says_so(workspace: Workspace) -> None:
    path = write_all(workspace, "ak_full_sdv2", [0.7866, 0.79])[1].record_path
    path.write_text(path.read_text()[:-20])
    done = run_repro("check", "--workspace", workspace.root)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert str(path) in done.err
    assert "1 damaged records left out" in done.out.splitlines()[-1]
    assert "WITHIN MARGIN" in done.out


IMPORTED = """
import json, sys
from repro.__main__ import run
for words, heavy in json.loads(sys.argv[1]):
    run(words)
    print(words, sorted(set(heavy) & sys.modules.keys()), file=sys.stderr)
"""


def test_quick_verbs_import_nothing_heavy(tmp_path: Path) -> None:
    heavy = ["torch", "diffusers", "transformers", "mlflow", "sklearn", "av", "pandas"]
    list_heavy = [*heavy, "numpy", "pyarrow", "scipy", "repro.datasets.registry", "repro.datasets.animal_kingdom"]
    help_heavy = [*heavy, "numpy", "pydantic", "yaml", "repro.core.config", "repro.cli.options"]
    # In one process, those first that may import least.
    commands = [([], help_heavy), (["--help"], help_heavy), (["list"], list_heavy)]
    for line in (
        "check", "run --help", "ak_full", "fetch", "fetch svd", "data status", "plan", "ucf_hmdb --dry-run", "readout ak_full",
    ):  # fmt: skip
        commands.append((line.split(), heavy))
    env = {**os.environ, "REPRO_WORKSPACE": str(tmp_path)}
    words = [sys.executable, "-c", IMPORTED, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    reported = [line for line in done.stderr.splitlines() if line.startswith("[") and line.endswith("]")]
    assert reported == [f"{words} []" for words, _ in commands]


def test_a_python_without_the_packages_is_one_line(tmp_path: Path) -> None:
    # -S: without the folder of installed packages.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from repro.__main__ import main; main()"
    words = [sys.executable, "-S", "-c", code, "list"]
    done = subprocess.run(words, capture_output=True, text=True, env={"REPRO_WORKSPACE": str(tmp_path)}, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has no package cyclopts: run .venv/bin/repro after `make venv`" in line


def test_what_is_printed_into_a_closed_pipe_leaves_no_complaint(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m repro list --workspace {tmp_path} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_the_exit_code_says_that_nobody_reads() -> None:
    script = f"set -o pipefail; {sys.executable} -m repro list --json --workspace /tmp/none | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)  # the pipe may have held it all
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["runs", "smoke", "features", ".smoke.lock", "mlflow.db"])
@pytest.mark.slow
def test_a_folder_where_a_file_belongs_and_the_other_way_round(workspace: Workspace, name: str) -> None:
    workspace.require_writable()
    path = workspace.root / name
    if name.startswith((".smoke", "mlflow")):
        path.mkdir()
    else:
        path.write_text("")
    if name in ("smoke", ".smoke.lock"):
        done = run_repro("smoke", "--workspace", workspace.root)
        assert done.code == 2
        assert done.err.count("\n") == 1
        assert str(path) in done.err
    else:
        assert "Traceback" not in run_repro("check", "--workspace", workspace.root).err


@pytest.mark.slow
def test_verify_prints_every_tensor_and_judges(reference: Path, kit_checkpoint: Path, tmp_path: Path) -> None:
    """Of five frames, which sdv2 computes each on its own, and the first layers: test_golden.py compares all."""
    golden, few = load_file(reference / "parity" / "sdv2" / "guppie.safetensors"), tmp_path / "few"
    few.mkdir()
    later = {f"t20_layer{layer:02d}_mean" for layer in range(3, 14)}
    first = {name: values[:5] for name, values in golden.items() if name not in later}
    save_file(first | {"n_real": np.array([5])}, few / "guppie.safetensors")
    words = ["verify", "sdv2_tiny", "--golden", few, "--checkpoint", kit_checkpoint]
    done = run_repro(*words)
    assert done.code == 0
    assert len(done.out.splitlines()) == 6
    strict = run_repro(*words, "--limit", "1e-8", "--json")
    assert strict.code == 1
    assert json.loads(strict.out)["above_limit"] > 0
    broken = tmp_path / "golden"
    broken.mkdir()
    (broken / "a.safetensors").write_bytes(b"x")
    done = run_repro("verify", "sdv2_tiny", "--golden", broken, "--checkpoint", kit_checkpoint)
    assert done.code == 4
    assert done.err.count("\n") == 1
