"""apptainer.def is read strictly, and what a lenient reader would let pass is an error."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from builders.apptainer_definition import DefinitionError, parse
from builders.commands import ROOT

from repro import __version__

GOOD = "Bootstrap: docker\nFrom: {{ B }}\n\n%arguments\n    B=x\n\n%post\n    echo {{ B }}\n"


def test_the_projects_own() -> None:
    found = parse((ROOT / "apptainer.def").read_text(), {"TARGET": "cpu"})
    assert set(found.sections) == {"files", "post", "environment", "runscript", "test", "labels", "help"}
    assert found.headers["from"].startswith("docker.io/")
    assert "packages.sh 'cpu'" in found.sections["post"]
    for source, destination in found.files:
        assert (ROOT / source).exists()
        assert destination == f"/src/{source}"
    assert found.labels["org.opencontainers.image.version"] == __version__
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(found.labels) == set(re.findall(r"(org\.opencontainers\.image\.[a-z.]+)=", dockerfile))
    assert 'REPRO_COMMIT="${REPRO_COMMIT:-unknown}"' in found.sections["environment"]


def test_it_copies_what_the_dockerfile_copies() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for source, _ in parse((ROOT / "apptainer.def").read_text()).files:
        assert source in dockerfile
    for line in ("FORK_COMMIT=57fcb5811622acd2147f500f555845dddf7b079b", "TORCH_CUDA_ARCH_LIST=9.0"):
        assert line in dockerfile
        assert line in (ROOT / "apptainer.def").read_text()


@pytest.mark.parametrize("section", ["post", "environment", "runscript", "test"])
def test_its_shell_is_shell(section: str) -> None:
    text = parse((ROOT / "apptainer.def").read_text()).sections[section]
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_arguments_are_filled_in() -> None:
    assert parse(GOOD).sections["post"].strip() == "echo x"
    assert parse(GOOD, {"B": "y"}).headers["from"] == "y"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "%psot\n", "line 9: unknown section %psot"),
        (GOOD + "%post\n", "line 9: section %post occurs twice"),
        (GOOD + "%test -x\n", "words behind %test"),
        (GOOD.replace("B=x", "C=x"), "argument B is set nowhere"),
        (GOOD.replace("B=x", "B"), "expected NAME=value"),
        (GOOD.replace("From:", "Form:"), "line 2: expected a header"),
        (GOOD.replace("Bootstrap: docker\n", ""), "'bootstrap' is missing"),
        (GOOD.replace("%post", "%help"), "%post is missing"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        parse(text)
    with pytest.raises(DefinitionError, match="no such argument: Z"):
        parse(GOOD, {"Z": "1"})


def test_the_base_is_pinned_in_one_place(tmp_path: Path) -> None:
    """scripts/image/pin_base.sh, with a registry that answers from here."""
    pinned = (ROOT / "scripts" / "image" / "base.txt").read_text().splitlines()[-1]
    for name in ("Dockerfile", "apptainer.def"):
        assert f"BASE_IMAGE={pinned}\n" in (ROOT / name).read_text()
    for name in ("Dockerfile", "apptainer.def", "scripts/image/base.txt", "scripts/image/pin_base.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    skopeo = tmp_path / "bin" / "skopeo"
    skopeo.parent.mkdir()
    script = ["bash", str(tmp_path / "scripts" / "image" / "pin_base.sh")]
    env = os.environ | {"PATH": f"{skopeo.parent}:{os.environ['PATH']}"}
    digest = "sha256:" + "ab" * 32
    for answer, fails, words, code in (
        (digest, 0, (), 0),
        ("unauthorized", 0, (), 1),
        (digest, 1, (), 1),
        (digest, 0, ("localhost:5000/python",), 2),
    ):
        skopeo.write_text(f"#!/bin/sh\necho '{answer}'\nexit {fails}\n")
        skopeo.chmod(0o755)
        done = subprocess.run([*script, *words], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("pin_base: ") == (code > 0)
    name = f"docker.io/library/python:3.11-slim-bookworm@sha256:{'ab' * 32}"
    for file in ("Dockerfile", "apptainer.def", "scripts/image/base.txt"):
        assert (tmp_path / file).read_text().count(name) == 1
