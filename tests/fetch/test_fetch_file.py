"""`repro fetch` from a Hub and servers on this machine: licence, verification, origin files, and failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.commands import run_process, run_repro
from builders.fileserver import FileServer, serve_file, sha256
from builders.reporters import RecordingReporter

from repro.core.errors import MissingError, UsageError
from repro.core.files import lock_file, write_bytes
from repro.core.hashing import FileHashes
from repro.core.locks import LOCK, own_partial
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace
from repro.fetch import download as downloads
from repro.fetch.catalogue import Asset, list_assets
from repro.fetch.fetch_file import fetch_file
from repro.fetch.file_state import origin_path, read_origin

CONTENT = os.urandom(200_000)
TOKEN = "hf_thisIsASecretToken"
SVD = "/stabilityai/stable-video-diffusion-img2vid/resolve/9cf024d5bfa8f56622af86c884f26a52f6676f2e/svd.safetensors"
COMMIT = SVD.split("/")[4]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide cache, token and settings of the user who runs the tests."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "REPRO_DATA", "REPRO_CHECKPOINTS", "REPRO_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0))


@pytest.fixture
def hub() -> Iterator[FileServer]:
    """Answers as the Hub does for a small file: with its commit, and its sha256 as its ETag."""
    with serve_file(CONTENT, etag=f'"{sha256(CONTENT)}"') as server:
        server.always = {"headers": {"X-Repo-Commit": COMMIT}}
        yield server


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_file(CONTENT) as state:
        yield state


def run_fetch(
    *words: str | Path, at: Path, env: dict[str, str] | None = None, hub: FileServer | None = None
) -> SimpleNamespace:
    """Run `repro fetch` in the folder `at`; its output must not contain the token."""
    settings = {"HF_TOKEN": TOKEN, **({"HF_ENDPOINT": hub.url} if hub else {}), **(env or {})}
    # The Hub's client reads its variables once, when it is imported.
    run = run_process if hub or env else run_repro
    done = run("fetch", *words, env=settings, cwd=at)
    assert TOKEN not in done.out + done.err
    assert "Traceback" not in done.err, done.err
    return done


def load_origin(path: Path) -> dict[str, object]:
    return dict(json.loads(origin_path(path).read_text()))


def read_error_line(done: SimpleNamespace, code: int) -> str:
    """Return the error message, which must be one line."""
    assert done.code == code, done.err
    assert done.err.count("\n") == 1, done.err
    return str(done.err)


def test_without_a_name_all_assets_are_listed(tmp_path: Path) -> None:
    done = run_fetch(at=tmp_path)
    assert done.code == 0
    for word in ("svd_xt", "sdv2", "vjepa", "videomaev2", "hmdb51", "9.56 GB", "CC BY 4.0", "on request"):
        assert word in done.out
    assert "svd_xt_tiny" not in done.out
    entries = {entry["name"]: entry for entry in json.loads(run_fetch("--json", at=tmp_path).out)}
    assert entries["hmdb51"]["files"][0]["bytes"] == 4_246_812_958
    assert entries["svd"]["here"] == "no"
    assert list(tmp_path.iterdir()) == []


def test_a_licence_is_shown_and_must_be_accepted(tmp_path: Path) -> None:
    done = run_fetch("svd", "hmdb51", at=tmp_path)
    message = read_error_line(done, 4)
    assert "svd: svd.safetensors (9.56 GB)\n  licence: Stability AI Community License" in done.out
    assert "\n  https://stability.ai/license\n" in done.out
    assert "hmdb51: hmdb51_org.zip (4.25 GB), test_train_splits.zip (223 kB)\n  licence: CC BY 4.0\n" in done.out
    assert "13.81 GB to download, about 4.25 GB more once unpacked" in done.out
    assert message == "repro: to accept these licences and fetch: repro fetch svd hmdb51 --accept-license\n"
    done = run_fetch("vjepa", "--from", "a b", "--workspace", "my work", at=tmp_path)
    assert f"repro fetch vjepa --accept-license --from 'a b' --workspace '{tmp_path}/my work'" in done.err
    assert "warning: --from a b: no such file or folder" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["svd_xy"], 2, "unknown row or asset 'svd_xy'; did you mean 'svd_xt'? (`repro fetch` lists the assets"),
        (["svd_xt_tiny"], 2, "unknown row or asset 'svd_xt_tiny'"),
        (["animal_kingdom", "--accept-license"], 4, "with the form at https://forms.gle/"),
        (["svd", "--accept-license", "--from", "/no/such"], 4, "--from /no/such: no such file or folder"),
        (["svd", "--accept-license", "--from", "ftp://host/x"], 2, "expected http:// or https://"),
        (["svd", "--accept-license", "--from", "https://me:pw@host/x"], 2, "--from https://host/x: expected http"),
        (["svd", "--accept-license", "--from", "https://[x/"], 2, "not an address"),
        (["hmdb51", "--accept-license", "--from", "https://host/x"], 2, "name a folder (an address that ends in /)"),
    ],
)
def test_a_usage_error_is_one_line(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    assert text in read_error_line(run_fetch(*words, at=tmp_path), code)


@pytest.mark.slow
def test_a_file_is_fetched_from_the_hub_at_its_commit(tmp_path: Path, hub: FileServer) -> None:
    done = run_fetch("svd", "--accept-license", "--json", at=tmp_path, hub=hub)
    assert done.code == 0, done.err
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert path.read_bytes() == CONTENT
    assert [(method, where) for method, where, _ in hub.requests] == [("HEAD", SVD), ("GET", SVD)]
    assert {headers["authorization"] for _, _, headers in hub.requests} == {f"Bearer {TOKEN}"}
    assert json.loads(done.out)["files"] == [
        {
            "name": "svd", "path": str(path), "bytes": len(CONTENT), "sha256": sha256(CONTENT), "published": True,
            "means": "fetched",
        }
    ]  # fmt: skip
    found = load_origin(path)
    assert found["hub"] == {
        "repo": "stabilityai/stable-video-diffusion-img2vid", "kind": "model", "revision": COMMIT, "path": "svd.safetensors",
    }  # fmt: skip
    assert (found["from"], found["bytes"], found["sha256"]) == (hub.url + SVD, len(CONTENT), sha256(CONTENT))
    assert (found["sha256_is"], found["agreed_with"]) == ("published", "--accept-license")
    assert str(found["licence"]).startswith("Stability AI Community License")
    assert TOKEN not in origin_path(path).read_text()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        ".svd.safetensors.lock", "svd.safetensors", "svd.safetensors.origin.json",
    ]  # fmt: skip
    # Again, without accepting anything: the file is there, and no request is sent.
    done = run_fetch("svd", at=tmp_path, hub=hub)
    assert f"{path}: there, 200.0 kB, sha256 {sha256(CONTENT)}, as published" in done.out
    assert len(hub.requests) == 2


@pytest.mark.slow
def test_the_token_is_not_sent_where_the_hub_redirects(tmp_path: Path, server: FileServer) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost") + "/signed?key=secret"
    linked = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{sha256(CONTENT)}"', "X-Linked-Size": len(CONTENT)}
    with serve_file() as hub:
        hub.always = {"status": 302, "headers": {**linked, "Location": elsewhere}}
        server.faults = [{"drop": 50_000}]
        done = run_fetch("svd", "--accept-license", at=tmp_path, hub=hub)
    assert done.code == 0, done.err
    assert "secret" not in done.out + done.err
    assert len(hub.requests) == 3  # each retry needs a newly signed address
    assert server.requested_ranges == [None, "bytes=50000-"]
    assert not [headers for _, _, headers in server.requests if "authorization" in headers]


def test_the_hubs_sha256_must_be_the_configs(tmp_path: Path, hub: FileServer) -> None:
    message = read_error_line(run_fetch("svd_xt", "--accept-license", at=tmp_path, hub=hub), 4)
    assert f"the Hub's file has sha256 {sha256(CONTENT)}, expected b2652c23" in message
    assert len(hub.requests) == 1


def test_wrong_bytes_from_the_hub_are_set_aside(tmp_path: Path, hub: FileServer) -> None:
    hub.etag = '"not-a-checksum"'
    done = run_fetch("sdv2", "--accept-license", at=tmp_path, hub=hub)
    assert "expected sha256 b2652c23" in read_error_line(done, 4)
    folder = tmp_path / "workspace" / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {".svd_xt.safetensors.lock", "svd_xt.safetensors.part.damaged1"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "set HF_TOKEN to a token"),
        (403, "accept the conditions on the Hub's page"),
        (404, "not found (HTTP 404)"),
    ],
)
def test_a_refusal_by_the_hub_is_one_line(tmp_path: Path, hub: FileServer, status: int, text: str) -> None:
    hub.always = {"status": status, "headers": {"X-Error-Message": "no"}}
    assert text in read_error_line(run_fetch("svd", "--accept-license", at=tmp_path, hub=hub), 4)


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    done = run_fetch("svd", "--accept-license", at=tmp_path, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "the Hub cannot be reached (ConnectError" in read_error_line(done, 4)


@pytest.mark.slow
def test_offline_no_request_is_sent(tmp_path: Path, hub: FileServer) -> None:
    for words in (["svd"], ["vjepa"], ["svd", "--from", hub.url + "/x"]):
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")[: 2 if words == ["svd"] else 1]:
            done = run_fetch(*words, "--accept-license", at=tmp_path, hub=hub, env={variable: "1"})
            assert "HF_HUB_OFFLINE forbids the network: unset it (and TRANSFORMERS_OFFLINE" in read_error_line(done, 4)
    (tmp_path / "mine").write_bytes(CONTENT)
    done = run_fetch("svd", "--accept-license", "--from", "mine", at=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0
    assert hub.requests == []


def test_a_file_in_the_hub_cache_is_linked(tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub" / "models--stabilityai--stable-video-diffusion-img2vid"
    blob = cache / "blobs" / sha256(CONTENT)
    snapshot = cache / "snapshots" / COMMIT / "svd.safetensors"
    for path in (blob, snapshot):
        path.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    snapshot.symlink_to(blob)
    done = run_fetch("svd", "--accept-license", at=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert path.samefile(blob)
    assert not path.is_symlink()
    assert load_origin(path)["hub"]["revision"] == COMMIT  # type: ignore[index]


@pytest.mark.slow
def test_a_local_file_is_linked_and_recorded(tmp_path: Path) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(CONTENT)
    mine.chmod(0o600)
    done = run_fetch("svd", "--accept-license", "--from", mine, at=tmp_path)
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert f"{path}: linked, 200.0 kB, sha256 {sha256(CONTENT)}, recorded: none is published" in done.out
    assert path.samefile(mine)
    assert mine.stat().st_mode & 0o777 == 0o600
    assert load_origin(path)["from"] == str(mine)
    assert load_origin(path)["sha256_is"] == "recorded at first download"
    # Every later file is compared with what was recorded.
    path.unlink()
    path.write_bytes(bytes(len(CONTENT)))
    done = run_fetch("svd", at=tmp_path)
    assert done.code == 4
    assert f"{path} has sha256 {sha256(bytes(len(CONTENT)))}, expected {sha256(CONTENT)}, to be renamed" in done.out
    (tmp_path / "other").write_bytes(CONTENT[::-1])
    message = read_error_line(run_fetch("svd", "--accept-license", "--from", "other", at=tmp_path), 4)
    assert f"other: has sha256 {sha256(CONTENT[::-1])}, expected {sha256(CONTENT)}" in message
    assert path.read_bytes() == bytes(len(CONTENT))
    done = run_fetch("svd", "--accept-license", "--from", mine, at=tmp_path)
    assert done.code == 0
    assert "set aside as svd.safetensors.damaged1" in done.err
    assert path.read_bytes() == CONTENT


def test_an_unknown_file_is_kept_and_reported_as_unverified(tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    done = run_fetch("svd", at=tmp_path)
    assert f"{path}: there, 200.0 kB, not verified: no checksum is published and none was recorded" in done.out
    assert done.code == 0


@pytest.mark.slow
def test_archives_are_taken_from_a_folder(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "CharadesEgo.zip").write_bytes(b"lists")
    words = ["charades_ego", "--accept-license", "--no-prepare", "--from", "mirror"]
    assert "no CharadesEgo_v1_480.tar in that folder" in run_fetch(*words, at=tmp_path).err
    (mirror / "CharadesEgo_v1_480.tar").write_bytes(CONTENT)
    done = run_fetch(*words, at=tmp_path)
    assert done.code == 0, done.err
    archives = tmp_path / "workspace" / "data" / "charades_ego" / "archives"
    assert (archives / "CharadesEgo.zip").read_bytes() == b"lists"
    assert (archives / "CharadesEgo_v1_480.tar").read_bytes() == CONTENT
    assert done.out.splitlines()[-1] == "next: repro data prepare charades_ego"
    assert "there, 200.0 kB" in run_fetch("charades_ego", "--no-prepare", at=tmp_path).out


def test_archives_are_taken_from_a_mirror(tmp_path: Path, server: FileServer) -> None:
    words = ["charades_ego", "--accept-license", "--no-prepare", "--from", server.url + "/m/"]
    done = run_fetch(*words, at=tmp_path)
    assert done.code == 0, done.err
    assert [where for _, where, _ in server.requests] == ["/m/CharadesEgo.zip", "/m/CharadesEgo_v1_480.tar"]
    assert not [headers for _, _, headers in server.requests if "authorization" in headers]


@pytest.mark.slow
def test_files_of_a_mirror_are_verified(tmp_path: Path, server: FileServer) -> None:
    done = run_fetch("svd_xt", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert done.code == 4
    assert f"{server.url}/x?...: sent 200000 bytes with sha256 {sha256(CONTENT)}, expected sha256 b2652c23" in done.err
    done = run_fetch("videomaev2", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert "the server offers 200000 bytes, expected 4105433973" in done.err
    done = run_fetch("svd", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert done.code == 0
    files = [p for p in (tmp_path / "workspace").rglob("*") if p.is_file()]
    assert not [p for p in files if b"secret" in p.read_bytes()]
    assert "secret" not in done.out + done.err


def test_unpacked_data_are_not_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "workspace" / "data" / "animal_kingdom"
    (folder / "video").mkdir(parents=True)
    (folder / "AR_metadata.xlsx").touch()
    done = run_fetch("animal_kingdom", "--no-prepare", at=tmp_path)
    assert done.code == 0
    assert done.out == f"animal_kingdom: already unpacked in {folder}\n"


def test_data_and_checkpoints_may_be_outside_the_workspace(tmp_path: Path, server: FileServer) -> None:
    env = {"REPRO_CHECKPOINTS": str(tmp_path / "c"), "REPRO_DATA": str(tmp_path / "d")}
    for name in ("svd", "charades_ego"):
        words = [name, "--accept-license", "--no-prepare", "--from", server.url + "/"]
        assert run_fetch(*words, at=tmp_path, env=env).code == 0
    assert (tmp_path / "c" / "svd.safetensors").is_file()
    assert (tmp_path / "d" / "charades_ego" / "archives" / "CharadesEgo.zip").is_file()


@pytest.mark.slow
def test_a_killed_fetch_resumes(tmp_path: Path, server: FileServer) -> None:
    server.faults = [{"stall": 120_000}]
    words = ["fetch", "svd", "--accept-license", "--from", server.url + "/x"]
    first = subprocess.Popen([sys.executable, "-m", "repro", *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    part = tmp_path / "workspace" / "checkpoints" / "svd.safetensors.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    # A second call is refused while the first one runs.
    message = read_error_line(run_fetch(*words[1:], at=tmp_path), 2)
    assert "svd.safetensors is being fetched already" in message
    assert f'"pid": {first.pid}' in message
    assert "started" in run_fetch(at=tmp_path).out
    first.send_signal(signal.SIGKILL)
    first.wait()
    received = part.stat().st_size
    server.release.set()
    done = run_fetch(*words[1:], at=tmp_path)
    assert done.code == 0, done.err
    assert server.requested_ranges == [None, f"bytes={received}-"]
    assert (tmp_path / "workspace" / "checkpoints" / "svd.safetensors").read_bytes() == CONTENT


def test_an_interrupt_is_one_line_and_keeps_the_part(tmp_path: Path, server: FileServer) -> None:
    server.faults = [{"stall": 120_000}]
    words = ["fetch", "svd", "--accept-license", "--from", server.url + "/x"]
    first = subprocess.Popen(
        [sys.executable, "-m", "repro", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "workspace" / "checkpoints" / "svd.safetensors.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, message = first.communicate(timeout=30)
    assert first.returncode == 130
    assert message == "repro: interrupted: finished work is kept; run the same command again to resume\n"
    assert part.stat().st_size >= 100_000


@pytest.fixture
def asset(workspace: Workspace) -> tuple[Asset, RemoteFile]:
    """A file whose length and sha256 are published."""
    file = RemoteFile(
        file="a.bin", url="https://example.org/a.bin", bytes=len(CONTENT), sha256=sha256(CONTENT), size="200 kB"
    )
    return Asset(
        "a", "A", (file,), workspace.checkpoints, "200 kB", "MIT", "https://example.org", "https://example.org"
    ), file


def test_a_wrong_file_is_set_aside_only_when_the_right_one_is_complete(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, server: FileServer, reporter: RecordingReporter
) -> None:
    path = asset[0].path(asset[1])
    write_bytes(path, b"short")
    hashes = FileHashes(workspace.hashes)
    server.always = {"status": 404}
    with pytest.raises(MissingError):
        fetch_file(*asset, server.url + "/a.bin", hashes, reporter)
    assert path.read_bytes() == b"short"
    server.always = {}
    fetched = fetch_file(*asset, server.url + "/a.bin", hashes, reporter)
    assert (fetched.means, fetched.published) == ("fetched", True)
    assert path.read_bytes() == CONTENT
    assert path.with_name("a.bin.damaged1").read_bytes() == b"short"
    assert reporter.warnings == [f"{path} has 5 bytes, expected 200000: set aside as a.bin.damaged1"]
    assert fetch_file(*asset, None, hashes, reporter).means == "there"


def test_a_file_that_cannot_be_linked_is_copied(
    asset: tuple[Asset, RemoteFile],
    workspace: Workspace,
    reporter: RecordingReporter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "mine").write_bytes(CONTENT)
    path = asset[0].path(asset[1])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(UsageError, match=r"10 bytes free, 200\.0 kB needed for a\.bin"):
            fetch_file(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    assert fetch_file(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter).means == "copied"
    assert not path.samefile(tmp_path / "mine")
    assert path.read_bytes() == CONTENT


def test_a_copy_that_a_killed_fetch_left_is_removed(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(CONTENT)
    path = asset[0].path(asset[1])
    path.parent.mkdir(parents=True)
    with own_partial(path) as of_another_process:
        of_another_process.write_bytes(CONTENT)
        left = path.with_name(".a.bin.0123456789ab.partial")
        left.mkdir()
        for name in (LOCK, "content"):
            (left / name).write_bytes(CONTENT)
        fetch_file(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
        assert not left.exists()
        assert of_another_process.exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], bytes(len(CONTENT))])
def test_a_wrong_local_file_is_refused(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(MissingError, match=r"mine: has .* expected"):
        fetch_file(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    assert [p.name for p in workspace.checkpoints.iterdir()] == [".a.bin.lock"]


def test_a_damaged_origin_file_is_ignored(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(CONTENT)
    fetch_file(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    path = asset[0].path(asset[1])
    for text in ("", "[]", '{"sha256": 7}', "{"):
        origin_path(path).write_text(text)
        assert read_origin(path) == {}
        assert fetch_file(*asset, None, FileHashes(workspace.hashes), reporter).means == "there"


def test_a_file_is_fetched_by_one_process_at_a_time(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter
) -> None:
    workspace.checkpoints.mkdir(parents=True)
    with (
        lock_file(workspace.checkpoints / ".a.bin.lock", "", ""),
        pytest.raises(UsageError, match=r"is being fetched already .*: wait for it to end"),
    ):
        fetch_file(*asset, None, FileHashes(workspace.hashes), reporter)


def test_sdv2_and_svd_xt_are_one_file(workspace: Workspace) -> None:
    found = list_assets(workspace)
    assert found["sdv2"].path(found["sdv2"].files[0]) == found["svd_xt"].path(found["svd_xt"].files[0])
    assert found["sdv2"].files[0].hub == found["svd_xt"].files[0].hub


def test_the_command_names_a_workspace_that_is_not_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch_command("svd", Workspace(tmp_path / "workspace")) == "repro fetch svd --accept-license"
    there = Workspace(tmp_path / "my work")
    assert fetch_command("svd", there) == f"repro fetch svd --accept-license --workspace '{tmp_path}/my work'"
