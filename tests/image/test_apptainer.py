"""apptainer.def's sections run for real, one by one, without Apptainer. Not covered: SIF files, --nv, --fakeroot, default
binds."""

import pytest
from builders.apptainer_definition import Definition, parse
from builders.image_engine import BASE, ROOT, Engine

IMAGE = "localhost/actiondiff:apptainer"
LOCKED_DOWN = ("--network", "none", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,mode=1777")


@pytest.fixture(scope="session")
def definition() -> Definition:
    return parse(
        (ROOT / "apptainer.def").read_text(),
        {"BASE_IMAGE": BASE, "TARGET": "cpu", "TORCH_INDEX": "", "FORK_COMMIT": ""},
    )


@pytest.fixture(scope="session")
def built(engine: Engine, definition: Definition, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `apptainer build` makes: files copied, %post run as root, environment and runscript kept.

    Its /tmp and /var/tmp are the machine's, as in Apptainer.
    """
    files = [tmp_path_factory.mktemp("machine") / "file" for _ in range(2)]
    for file in files:
        file.parent.chmod(0o1777)
        file.touch()
    mounts = [*engine.mounts, "-v", f"{files[0].parent}:/tmp", "-v", f"{files[1].parent}:/var/tmp"]
    container = engine.must("buildah", "from", "--pull-never", *mounts, definition.headers["from"]).strip()
    run = ("buildah", "run", "--isolation", "chroot", container, "--")
    try:
        for source, destination in definition.files:
            engine.must("buildah", "copy", container, ROOT / source, destination)
        engine.must(*run, "/bin/sh", "-ex", "-c", definition.sections["post"])
        assert all(file.exists() for file in files), "%post deletes files of the machine that builds"
        for name in ("environment", "runscript", "test"):
            engine.must(
                *run, "/bin/sh", "-c", f"mkdir -p /.singularity.d && cat >/.singularity.d/{name}",
                input_=definition.sections[name],
            )  # fmt: skip
        engine.must("buildah", "config", "--entrypoint", "[]", "--cmd", "[]", container)
        engine.must("buildah", "commit", "-q", container, IMAGE)
    finally:
        engine.run("buildah", "rm", container)
    return IMAGE


def words(*command: str) -> list[str]:
    """`apptainer exec`: the environment, then the command."""
    return ["/bin/sh", "-c", '. /.singularity.d/environment; exec "$@"', "sh", *command]


def test_its_own_test_passes(engine: Engine, built: str) -> None:
    done = engine.container(built, *words("/bin/sh", "-e", "/.singularity.d/test"), options=LOCKED_DOWN)
    assert done.code == 0, done.err


def test_run_lists_the_rows_and_exec_runs_one(engine: Engine, built: str) -> None:
    assert "24 rows" in engine.container(built, *words("/bin/sh", "/.singularity.d/runscript")).out
    done = engine.container(built, *words("/bin/sh", "/.singularity.d/runscript", "repro", "ak_full"))
    assert done.code == 4
    assert "missing in /data and /checkpoints:" in done.err


def test_smoke_passes_as_apptainer_runs_it(engine: Engine, built: str) -> None:
    """A read-only root and an ordinary user with no home, as under --cleanenv --containall."""
    done = engine.container(built, *words("repro", "smoke"), options=(*LOCKED_DOWN, "--user", "1234:1234"))
    assert done.code == 0, done.err + done.out
    assert done.out.splitlines()[-1] == "smoke: PASS"


def test_what_the_cluster_names_comes_first(engine: Engine, built: str) -> None:
    options = ("-e", "REPRO_WORKSPACE=/scratch/me", "-e", "REPRO_DATA=/datasets")
    done = engine.container(built, *words("repro", "ak_full"), options=options)
    assert "missing in /datasets and " in done.err
    assert "/scratch/me/runs" in engine.container(built, *words("repro", "check"), options=options).err


def test_the_cuda_image_asks_for_a_gpu_and_takes_its_own_compiler(engine: Engine, built: str) -> None:
    script = 'echo cuda >/opt/actiondiff/target; . /.singularity.d/environment; echo "$REPRO_DEVICE ${CC-gcc}"'
    options = ("--user", "root", "-e", "CC=/cluster/icc")
    assert engine.container(built, "/bin/sh", "-c", script, options=options).out.strip() == "cuda gcc"
