"""Nothing that comes from others is executed. Archives, bundles and forged features have tests of their own (tests/datasets/test_unpack.py,
tests/pipeline/bundle/test_read.py, tests/pipeline/sharing/test_share.py); tests/properties damages every format."""

import ast
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from builders.commands import ROOT, run_repro
from hostile import planted
from properties.formats import FORMATS, Format

from repro.core.config import load_config
from repro.core.errors import MissingError, UsageError
from repro.datasets.annotations import DataError
from repro.datasets.workbook import read_workbook
from repro.judge.kept import parse_arrays
from repro.table.row import Row

PICKLES: dict[str, Callable[[], bytes]] = {
    "pickle": planted.pickled,
    "pickle, protocol 5": lambda: planted.pickled(5),
    "torch": planted.saved_by_torch,
    "torch, old": lambda: planted.saved_by_torch(legacy=True),
    "npy": planted.object_array,
    "npz": planted.object_arrays,
    "parquet": planted.extension_type,
}

PLACED = ("pipe", "zeros", "terabyte")
READ_AT_ONCE = (
    "UCF101 list", "HMDB51 list", "Charades-Ego csv", "own csv", "own row", "backbone", "expected table", "record", "rates", "hashes",
    "training log", "kept results", "merges", "workspace", "audit journal", "shared features", "status",
)  # fmt: skip
"""Files whose contents are read into memory, rather than mapped, or hashed at first."""


@pytest.fixture(autouse=True)
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Planted code leaves a file in the working folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / planted.RAN).exists()


def test_the_planted_code_runs_where_it_may(tmp_path: Path) -> None:
    import pickle

    pickle.loads(planted.pickled())
    assert (tmp_path / planted.RAN).exists()
    (tmp_path / planted.RAN).unlink()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("form", [form for form in FORMATS if not form.is_slow], ids=lambda form: form.name)
def test_a_pickle_in_the_place_of_any_file_is_data(form: Format, kind: str, tmp_path: Path) -> None:
    path = form.make(tmp_path)
    path.write_bytes(PICKLES[kind]())
    with suppress(*form.refused):
        form.read(path)


@pytest.mark.parametrize(
    ("form", "kind"),
    [(form, kind) for form in FORMATS for kind in PLACED if kind != "terabyte" or form.name in READ_AT_ONCE],
    ids=lambda value: getattr(value, "name", value),
)
def test_nothing_but_a_file_of_its_size_is_read(form: Format, kind: str, tmp_path: Path) -> None:
    def give_up(*_: object) -> None:
        pytest.fail("it waits")

    path = form.make(tmp_path)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "terabyte":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to("/dev/zero")
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with suppress(*form.refused, OSError, AssertionError):
            form.read(path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024


def test_kept_arrays_hold_numbers_alone() -> None:
    import base64

    for content in (planted.object_arrays(), planted.pickled()):
        with pytest.raises(ValueError, match="not arrays"):
            parse_arrays(base64.b64encode(content).decode())


def test_the_text_towers_weights_are_no_code(tmp_path: Path) -> None:
    from repro.backbones.svd.text import _open_weights

    for kind in ("pickle", "torch", "torch, old"):
        (tmp_path / "weights").write_bytes(PICKLES[kind]())
        with pytest.raises(MissingError, match="neither safetensors nor a pickle of tensors"):
            _open_weights(tmp_path / "weights")


@pytest.mark.parametrize("tag", planted.YAML_TAGS)
def test_tags_of_yaml_make_nothing(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "row.yaml"
    path.write_text(f"name: {tag}\n")
    with pytest.raises(UsageError, match=r"row\.yaml:1: not valid YAML: could not determine a constructor"):
        load_config(Row, path)
    done = run_repro("extract", "videos", "--backbone", "mean_colour", "--set", f"frames.stride={tag}")
    assert done.code == 2
    assert "--set" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("case", planted.WORKBOOKS)
def test_workbooks_are_values_alone(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.datasets.workbook.MOST_WORKBOOK", 20_000_000)
    path = tmp_path / "AR_metadata.xlsx"
    path.write_bytes(planted.workbook(planted.WORKBOOKS[case]))
    if case in ("macro", "formula", "a row far below", "values in the last column"):
        # Formulas are their stored values.
        assert len(read_workbook(path, {"AR": ("video_id", "type")})["AR"]) <= 1
        return
    # No entity is replaced by a file, nor by billions of others.
    with pytest.raises(DataError, match=r"AR_metadata\.xlsx: "):
        read_workbook(path, {"AR": ("video_id", "type")})


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.loads", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "shelve.open", "joblib.load", "torch.hub.load", "torch.jit.load", "mlflow.pyfunc.load_model",
    "pd.read_pickle", "cloudpickle.load",
}  # fmt: skip


def test_the_code_calls_nothing_that_runs_data() -> None:
    found = []
    for path in (ROOT / "repro").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            unsafe = (
                name in FORBIDDEN
                or (name == "torch.load" and options.get("weights_only") != "True")
                or (name == "np.load" and options.get("allow_pickle") != "False")
                or (name == "yaml.load" and options.get("Loader") != "_Loader")
                or options.get("shell") == "True"
                or "trust_remote_code" in options
            )
            if unsafe:
                found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {name}")
    assert found == []
