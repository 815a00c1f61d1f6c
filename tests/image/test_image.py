"""The cpu image, built and used as README says: `make image-test`."""

import json
import time
from pathlib import Path

import pytest
from builders.image_engine import BASE, EPOCH, ROOT, Engine

from repro import __version__

LIMIT_MB = 2400
WORK = """
import torch, mlflow, matplotlib.pyplot, getpass, os, subprocess, sysconfig
os.listdir('/workspace'); getpass.getuser()
source, command = os.environ['SOURCE'], 'gcc -x c - -O3 -shared -fPIC -Wno-psabi -o /tmp/started.so -l:libdl.so.2 -I'
subprocess.run([*command.split(), sysconfig.get_path('include')], input=source, text=True, check=True)
"""
"""What a user does: imports, and what Triton does for a compiled network, to build a module in C and load it."""
MODULE = """
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "started"};
PyMODINIT_FUNC PyInit_started(void) { return dlsym(RTLD_DEFAULT, "dlopen") ? PyModule_Create(&module) : NULL; }
"""
LOCKED_DOWN = ("--network", "none", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,mode=1777")


def test_it_lists_the_rows(engine: Engine, image: str) -> None:
    done = engine.container(image)
    assert done.code == 0, done.err
    assert done.err == ""
    assert "24 rows" in done.out


def test_listing_is_quick_after_the_containers_own_start(engine: Engine, image: str) -> None:
    def seconds(*words: str) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            assert engine.container(image, *words).code == 0
            times.append(time.perf_counter() - started)
        return min(times)

    assert seconds("repro", "list") - seconds("true") < 1.0


def test_a_row_says_what_is_missing_and_where(engine: Engine, image: str, tmp_path: Path) -> None:
    done = engine.container(image, "repro", "ak_full", options=("--gpus", "all", "-v", f"{tmp_path}:/workspace"))
    assert done.code == 4
    where, data, checkpoint, *_, command = done.err.splitlines()
    assert where == "missing in /data and /checkpoints:"
    assert data.startswith("  data animal_kingdom ")
    assert checkpoint.startswith("  checkpoint svd_xt ")
    assert command.endswith("repro fetch ak_full --accept-license --workspace /workspace")


def test_an_unknown_row_is_one_line(engine: Engine, image: str) -> None:
    done = engine.container(image, "repro", "ak_ful")
    assert done.code == 2
    assert done.err.startswith("repro: unknown row or command 'ak_ful'; did you mean 'ak_full'?")
    assert done.err.count("\n") == 1


def test_a_gpu_asked_for_and_not_there_is_said(engine: Engine, image: str) -> None:
    """What the cuda image says: it differs in this variable."""
    done = engine.container(image, "repro", "ak_full", options=("-e", "REPRO_DEVICE=cuda", "--gpus", "all"))
    assert done.code == 4
    assert "no GPU is visible: start the container with --gpus all (docker) or --nv (apptainer)" in done.err
    assert done.err.splitlines()[-1].startswith("repro: row ak_full cannot run")


def test_smoke_passes_for_a_stranger_without_network_on_a_read_only_root(engine: Engine, image: str) -> None:
    done = engine.container(image, "repro", "smoke", options=(*LOCKED_DOWN, "--user", "4242:4242"))
    assert done.code == 0, done.err + done.out
    lines = done.out.splitlines()
    assert lines[0].startswith("/workspace cannot be written: working in /tmp/actiondiff-4242")
    assert lines[-1] == "smoke: PASS"
    assert done.err == ""


def test_a_mount_that_cannot_be_written_is_said(engine: Engine, image: str, tmp_path: Path) -> None:
    """Named by --workspace, it is taken at its word; without a place to fall back to, so is the environment's."""
    for options in (("-v", f"{tmp_path}:/workspace:ro"), ("--user", "4242:4242", "-v", f"{tmp_path}:/workspace")):
        done = engine.container(image, "repro", "smoke", "--workspace", "/workspace", options=options)
        assert done.code == 2
        assert done.err.startswith("repro: workspace /workspace cannot be written")
        assert done.err.count("\n") == 1
    done = engine.container(image, "repro", "smoke", options=("--user", "4242:4242", "-e", "REPRO_SCRATCH="))
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_a_workspace_of_ones_own_keeps_what_was_made(engine: Engine, image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = engine.container(
        image,
        "repro",
        "check",
        options=(
            "-v",
            f"{tmp_path}:/workspace",
        ),
    )
    assert done.code == 5
    assert "/workspace/runs" in done.err


@pytest.mark.parametrize("user", ["4242:4242", "10001", "root", "65534:65534"])
def test_any_user_may_work(engine: Engine, image: str, user: str) -> None:
    options = (*LOCKED_DOWN, "--user", user, "-e", f"SOURCE={MODULE}", "-e", "PYTHONPATH=/tmp")
    done = engine.container(image, "python", "-c", f"{WORK}import started; print(started.__file__)", options=options)
    assert done.code == 0, done.err
    assert done.out == "/tmp/started.so\n"


def test_user_labels_and_settings(engine: Engine, image: str) -> None:
    about = json.loads(engine.must("podman", "image", "inspect", image))[0]
    config = about["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--"]
    assert config["Cmd"] == ["repro", "list"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert set(labels) >= {
        "title", "description", "authors", "vendor", "licenses", "url", "documentation", "source", "version", "revision", "created",
        "ref.name", "base.name",
    }  # fmt: skip
    assert (labels["licenses"], labels["version"], labels["ref.name"], labels["base.name"]) == (
        "MIT",
        __version__,
        "cpu",
        BASE,
    )
    assert about["Healthcheck"]["Test"] == ["CMD", "repro", "doctor"]
    env = dict(line.split("=", 1) for line in config["Env"])
    assert env["REPRO_WORKSPACE"] == "/workspace"
    assert not [name for name in env if any(word in name.upper() for word in ("TOKEN", "SECRET", "PASSWORD", "KEY"))]


def test_it_is_healthy_as_it_comes(engine: Engine, image: str) -> None:
    """The health check, in the strictest container that README shows; a GPU that is asked for and not there makes it unhealthy."""
    done = engine.container(image, "repro", "doctor", "--json", options=LOCKED_DOWN)
    assert done.code == 0, done.out + done.err
    found = {one["name"]: one for one in json.loads(done.out)["findings"]}
    assert found["lock"]["state"] == found["decoders"]["state"] == found["torch"]["state"] == "ok"
    assert found["mount workspace"]["state"] == "warn"
    done = engine.container(image, "repro", "doctor", options=("-e", "REPRO_DEVICE=cuda"))
    assert done.code == 4
    assert "fail driver: no GPU is visible" in done.out


def test_the_doctor_sees_mounts_that_are_missing_or_read_only(engine: Engine, image: str, tmp_path: Path) -> None:
    done = engine.container(
        image, "repro", "doctor", "ak_full", "--json", options=("--user", "root", "-v", f"{tmp_path}:/workspace:ro")
    )
    assert done.code == 4
    found = {one["name"]: one for one in json.loads(done.out)["findings"]}
    assert found["mount workspace"]["state"] == found["workspace"]["state"] == "fail"
    assert "read-only file system" in found["workspace"]["what"]
    assert found["mount data"]["remedy"] == "start the container with -v FOLDER:/data"


def test_everything_in_it_is_listed_with_its_licence(engine: Engine, image: str) -> None:
    listed = {}
    for kind in ("python", "debian"):
        document = json.loads(engine.container(image, "cat", f"/usr/share/sbom/{kind}.cdx.json").out)
        assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
        assert document["metadata"]["timestamp"].startswith("2023-11-14")  # EPOCH
        assert all(one["licenses"] and one["purl"] for one in document["components"])
        listed[kind] = {one["name"]: one["version"] for one in document["components"]}
    code = "from importlib.metadata import distributions as d; print(*{x.metadata['Name'] for x in d()})"
    assert set(engine.container(image, "python", "-c", code).out.split()) == set(listed["python"])
    assert {"torch", "av", "actiondiff-repro"} <= set(listed["python"])
    dpkg = engine.container(image, "dpkg-query", "-W", "-f", "${Package}\n").out
    assert set(dpkg.split()) == set(listed["debian"])
    assert "tini" in listed["debian"]


def test_no_file_of_ours_is_later_than_the_builds_time(engine: Engine, image: str) -> None:
    later = f"find /opt/actiondiff -newermt @{EPOCH} -type f | head -3; find /opt/actiondiff -name '*.pyc' | wc -l"
    *found, modules = engine.container(image, "sh", "-c", later).out.split()
    assert found == []
    assert int(modules) > 5000


def test_weights_are_not_added_unasked(engine: Engine, image: str) -> None:
    with pytest.raises(RuntimeError, match="read the licences"):
        engine.build("localhost/actiondiff:weights", "checkpoints", "--build-arg", "CHECKPOINTS_ON=cpu")


def test_it_is_small_enough(engine: Engine, image: str) -> None:
    size = json.loads(engine.must("podman", "image", "inspect", image))[0]["Size"]
    assert size <= LIMIT_MB * 1e6, f"{size / 1e6:.0f} MB"


def test_no_cache_secret_source_or_build_tool_is_left(engine: Engine, image: str) -> None:
    found = engine.container(
        image, "sh", "-c",
        "for t in pip pip3 git g++ c++ make curl wget; do command -v $t; done; "
        "find / -xdev ( -name '*.whl' -o -name '.git' -o -name '.netrc' -o -name 'id_*sa' -o -name '.pypirc' ) "
        "-not -path '/proc/*' 2>/dev/null; "
        "ls -A /var/lib/apt/lists /var/cache /root/.cache /src /tmp /workspace /data /checkpoints 2>/dev/null | grep -v ':$'",
        options=("--user", "root"),
    )  # fmt: skip
    assert found.out.split() == [], found.out
    code = "from importlib.util import find_spec; print([m for m in ('pip', 'pytest', 'mypy', 'hatchling') if find_spec(m)])"
    assert engine.container(image, "python", "-c", code).out.strip() == "[]"


def test_the_history_names_no_place_of_this_machine(engine: Engine, image: str) -> None:
    history = engine.must("podman", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert str(ROOT) not in history
