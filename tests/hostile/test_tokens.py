"""Secrets of the environment and of addresses are found nowhere: not in the workspace, MLflow's database, logs, pages and bundles, not in what
commands print, not in a list of processes."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import tiny_datasets
from builders.commands import run_process, run_repro
from builders.fileserver import serve_file
from builders.records import record, write_with_evidence
from builders.repro_rows import colour_row, run_here
from builders.results import read_texts

from repro.core.workspace import Workspace, tracking_from_environment
from repro.pipeline import row_data
from repro.records.mlflow_view import _describe_failure
from repro.video import workers

NAMES = (
    "HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN", "HTTPS_PROXY", "MLFLOW_TRACKING_URI", "login", "query", "config",
)  # fmt: skip
SECRETS = {name: f"planted{number:02d}Secret" for number, name in enumerate(NAMES)}
RUN, BUNDLED = "ucf_hmdb", "ucf_hmdb_sdv2"
"""A row that is run, on colours; a record is written of the other, since colours are not what a published row measures."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES[:6]:
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRETS['HTTPS_PROXY']}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def listed_processes() -> Iterator[set[str]]:
    """The command lines of all processes that are seen meanwhile."""
    found: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    found.add(path.read_text(errors="replace").replace("\0", " "))
                except OSError:  # it has just ended
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def find_secrets(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in text]


@pytest.mark.slow
def test_a_row_and_what_is_made_of_it_hold_no_secret(
    environment: None,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(row_data, "open_dataset", tiny_datasets.ucf_hmdb_opener(workspace))
    # As users' are: each has a command line.
    monkeypatch.setattr(workers, "CONTEXT", multiprocessing.get_context("spawn"))
    judged = Workspace(tmp_path / "judged")
    write_with_evidence(judged.runs, record(BUNDLED, 1, 0.765))
    here, there = ("--workspace", workspace.root), ("--workspace", judged.root)
    with listed_processes() as processes, serve_file(always={"status": 401}) as server:
        run_here(colour_row(RUN, epochs=2), workspace)
        address = server.url.replace("//", f"//me:{SECRETS['MLFLOW_TRACKING_URI']}@")
        printed = [
            run_repro("report", "-o", tmp_path / "report.html", *there),
            run_repro("bundle", BUNDLED, "--output", tmp_path / "bundle.zip", *there),
            run_repro("status", *here, env={"MLFLOW_TRACKING_URI": address}),
            run_repro("track", *here, env={"MLFLOW_TRACKING_URI": address}),
        ]
        assert [done.code for done in printed] == [0, 0, 0, 2], [done.err for done in printed]
        # The server was given them: they were in use.
        assert any("authorization" in headers for _, _, headers in server.requests)
    assert any("spawn_main" in words for words in processes)
    assert find_secrets("\n".join(processes)) == []
    # Warnings and progress of the row as well.
    assert find_secrets("\n".join([*capfd.readouterr(), *(done.out + done.err for done in printed)])) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "record.json", "predictions.parquet", "bundle.zip", "report.html"} < {
        path.name for path in files
    }
    assert {path: find_secrets(str(path) + read_texts(path)) for path in files if find_secrets(read_texts(path))} == {}


@pytest.mark.slow
def test_what_is_fetched_leaves_no_secret(environment: None, workspace: Workspace) -> None:
    here = ("--accept-license", "--workspace", workspace.root)
    with serve_file(always={"status": 403}) as server:
        printed = [
            run_process("fetch", "svd_xt", *here, env={"HF_ENDPOINT": server.url}),
            run_repro("fetch", "vjepa", *here, "--from", f"{server.url}/vith16.pth.tar?token={SECRETS['query']}"),
            run_repro("fetch", "vjepa", *here, "--from", server.url.replace("//", f"//me:{SECRETS['login']}@") + "/x"),
        ]
        assert [done.code for done in printed] == [4, 4, 2]
        sent = [headers.get("authorization", "") for _, _, headers in server.requests]
        assert f"Bearer {SECRETS['HF_TOKEN']}" in sent
    assert find_secrets("\n".join(done.out + done.err for done in printed)) == []
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert [path for path in files if find_secrets(read_texts(path))] == []


@pytest.mark.slow
def test_a_login_in_an_address_is_refused_or_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SECRETS["config"]
    monkeypatch.chdir(tmp_path)
    for key in ("checkpoint.url", "checkpoint.licence_url"):
        for login in (f"me:{secret}", f"me:p@{secret}", secret):
            done = run_repro(
                "extract", ".", "--backbone", "vjepa", "--set", f"{key}=https://{login}@host/x", "--workspace", tmp_path
            )
            assert (done.code, done.err.count("\n")) == (2, 1), done.err
            assert "it has a user name or password: leave them out" in done.err
            assert find_secrets(done.err) == []
    for uri in (
        f"https://me:p@{secret}@127.0.0.1:9",
        f"https://{secret}@127.0.0.1:9",
        f"postgresql://127.0.0.1:9/x?password={secret}",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracking = tracking_from_environment()
        assert find_secrets(tracking.shown) == []
        # A server may answer with what it was sent.
        for text in (uri, f"user p@{secret}" if "p@" in uri else secret):
            assert find_secrets(_describe_failure(OSError(text), tracking)) == []
    # Nor that of a mirror, or of a proxy.
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p@{secret}@127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", f"me:{secret}@127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{secret}@127.0.0.1:9")
    for run, *words in (
        (run_process, "fetch", "svd_xt", "--accept-license"),
        (run_repro, "doctor"),
        (run_repro, "track"),
    ):
        done = run(*words, "--workspace", tmp_path / "w")
        assert done.code in (0, 4, 5), done.err
        assert find_secrets(done.out + done.err) == [], words
