"""`repro fetch` from a Hub and servers on this machine: licence, verification, origin, and what may go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.commands import run_repro
from builders.fileserver import FileServer, serving, sha256
from builders.reporters import RecordingReporter

from repro.core.errors import MissingError, UsageError
from repro.core.files import lock_file, write_bytes
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace
from repro.fetch import bring as fetch
from repro.fetch import download as downloads
from repro.fetch.catalogue import Asset, assets

CONTENT = os.urandom(200_000)
TOKEN = "hf_thisIsASecretToken"
SVD = "/stabilityai/stable-video-diffusion-img2vid/resolve/9cf024d5bfa8f56622af86c884f26a52f6676f2e/svd.safetensors"
COMMIT = SVD.split("/")[4]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache, token or setting of whoever runs the tests."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "REPRO_DATA", "REPRO_CHECKPOINTS", "REPRO_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0))


@pytest.fixture
def hub() -> Iterator[FileServer]:
    """Answers as the Hub does for a small file: with its commit, and its sha256 as its ETag."""
    with serving(CONTENT, etag=f'"{sha256(CONTENT)}"') as server:
        server.always = {"headers": {"X-Repo-Commit": COMMIT}}
        yield server


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


def run(
    *words: str | Path, at: Path, env: dict[str, str] | None = None, hub: FileServer | None = None
) -> SimpleNamespace:
    """`repro fetch` in the folder `at`; what it says is looked through for the token."""
    settings = {"HF_TOKEN": TOKEN, **({"HF_ENDPOINT": hub.url} if hub else {}), **(env or {})}
    done = run_repro("fetch", *words, env=settings, cwd=at)
    assert TOKEN not in done.out + done.err
    assert "Traceback" not in done.err, done.err
    return done


def origin(path: Path) -> dict[str, object]:
    return dict(json.loads(fetch.origin_path(path).read_text()))


def said_once(done: SimpleNamespace, code: int) -> str:
    """The one line of a mistake."""
    assert done.code == code, done.err
    assert done.err.count("\n") == 1, done.err
    return str(done.err)


def test_without_a_name_it_shows_what_can_be_fetched(tmp_path: Path) -> None:
    done = run(at=tmp_path)
    assert done.code == 0
    for word in ("svd_xt", "sdv2", "vjepa", "videomaev2", "hmdb51", "9.56 GB", "CC BY 4.0", "on request"):
        assert word in done.out
    assert "svd_xt_tiny" not in done.out
    entries = {entry["name"]: entry for entry in json.loads(run("--json", at=tmp_path).out)}
    assert entries["hmdb51"]["files"][0]["bytes"] == 4_246_812_958
    assert entries["svd"]["here"] == "no"
    assert list(tmp_path.iterdir()) == []


def test_a_licence_is_shown_and_to_be_agreed_to(tmp_path: Path) -> None:
    said = said_once(run("svd", "hmdb51", at=tmp_path), 4)
    assert "svd: svd.safetensors (9.56 GB), licence: Stability AI Community License" in said
    assert "https://stability.ai/license" in said
    assert "hmdb51_org.zip (4.25 GB), test_train_splits.zip (223 kB), licence: CC BY 4.0" in said
    assert said.endswith("; to accept and fetch: repro fetch svd hmdb51 --accept-license\n")
    said = said_once(run("vjepa", "--from", "a b", "--workspace", "my work", at=tmp_path), 4)
    assert f"repro fetch vjepa --accept-license --from 'a b' --workspace '{tmp_path}/my work'" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["svd_xy"], 2, "unknown asset 'svd_xy'; did you mean 'svd_xt'? (available: sdv2, svd, svd_xt, "),
        (["ak_full"], 2, "'ak_full' is a row; fetch what it needs: repro fetch animal_kingdom svd_xt"),
        (["svd_xt_tiny"], 2, "unknown asset 'svd_xt_tiny'"),
        (["--from", "x"], 2, "--from needs the name of what to fetch"),
        (["svd", "svd_xt", "--from", "x"], 2, "--from is the place of one asset"),
        (["animal_kingdom", "--accept-license"], 4, "with the form at https://forms.gle/"),
        (["svd", "animal_kingdom"], 4, "animal_kingdom cannot be fetched"),
        (["svd", "--accept-license", "--from", "/no/such"], 4, "--from /no/such: no such file or folder"),
        (["svd", "--accept-license", "--from", "ftp://host/x"], 2, "expected http:// or https://"),
        (["svd", "--accept-license", "--from", "https://me:pw@host/x"], 2, "--from https://host/x: expected http"),
        (["svd", "--accept-license", "--from", "https://[x/"], 2, "not an address"),
        (["hmdb51", "--accept-license", "--from", "https://host/x"], 2, "name a folder (an address that ends in /)"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    assert text in said_once(run(*words, at=tmp_path), code)


def test_a_file_of_the_hub_at_its_commit(tmp_path: Path, hub: FileServer) -> None:
    done = run("svd", "--accept-license", "--json", at=tmp_path, hub=hub)
    assert done.code == 0, done.err
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert path.read_bytes() == CONTENT
    assert [(method, where) for method, where, _ in hub.asked] == [("HEAD", SVD), ("GET", SVD)]
    assert {headers["authorization"] for _, _, headers in hub.asked} == {f"Bearer {TOKEN}"}
    assert json.loads(done.out) == [
        {
            "name": "svd", "path": str(path), "bytes": len(CONTENT), "sha256": sha256(CONTENT), "published": True,
            "means": "fetched",
        }
    ]  # fmt: skip
    found = origin(path)
    assert found["hub"] == {
        "repo": "stabilityai/stable-video-diffusion-img2vid", "kind": "model", "revision": COMMIT, "path": "svd.safetensors",
    }  # fmt: skip
    assert (found["from"], found["bytes"], found["sha256"]) == (hub.url + SVD, len(CONTENT), sha256(CONTENT))
    assert (found["sha256_is"], found["agreed_with"]) == ("published", "--accept-license")
    assert str(found["licence"]).startswith("Stability AI Community License")
    assert TOKEN not in fetch.origin_path(path).read_text()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        ".svd.safetensors.lock", "svd.safetensors", "svd.safetensors.origin.json",
    ]  # fmt: skip
    # Again, without agreeing to anything: it is there, and nobody is asked.
    done = run("svd", at=tmp_path, hub=hub)
    assert f"{path}: there, 200.0 kB, sha256 {sha256(CONTENT)}, as published" in done.out
    assert len(hub.asked) == 2


def test_the_hub_may_send_elsewhere_and_the_token_does_not_go_there(tmp_path: Path, server: FileServer) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost") + "/signed?key=secret"
    linked = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{sha256(CONTENT)}"', "X-Linked-Size": len(CONTENT)}
    with serving() as hub:
        hub.always = {"status": 302, "headers": {**linked, "Location": elsewhere}}
        server.ways = [{"drop": 50_000}]
        done = run("svd", "--accept-license", at=tmp_path, hub=hub)
    assert done.code == 0, done.err
    assert "secret" not in done.out + done.err
    assert len(hub.asked) == 3  # the address is signed anew for each try
    assert server.ranges_asked == [None, "bytes=50000-"]
    assert not [headers for _, _, headers in server.asked if "authorization" in headers]


def test_what_the_hub_has_must_be_what_the_config_names(tmp_path: Path, hub: FileServer) -> None:
    said = said_once(run("svd_xt", "--accept-license", at=tmp_path, hub=hub), 4)
    assert f"the Hub's file has sha256 {sha256(CONTENT)}, expected b2652c23" in said
    assert len(hub.asked) == 1


def test_wrong_bytes_of_the_hub_are_set_aside(tmp_path: Path, hub: FileServer) -> None:
    hub.etag = '"not-a-checksum"'
    done = run("sdv2", "--accept-license", at=tmp_path, hub=hub)
    assert "expected sha256 b2652c23" in said_once(done, 4)
    folder = tmp_path / "workspace" / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {".svd_xt.safetensors.lock", "svd_xt.safetensors.part.damaged1"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "set HF_TOKEN to a token"),
        (403, "agree to the conditions on the Hub's page"),
        (404, "not there (HTTP 404)"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(tmp_path: Path, hub: FileServer, status: int, text: str) -> None:
    hub.always = {"status": status, "headers": {"X-Error-Message": "no"}}
    assert text in said_once(run("svd", "--accept-license", at=tmp_path, hub=hub), 4)


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    done = run("svd", "--accept-license", at=tmp_path, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "the Hub cannot be reached (ConnectError" in said_once(done, 4)


def test_offline_nothing_is_asked(tmp_path: Path, hub: FileServer) -> None:
    for words in (["svd"], ["vjepa"], ["svd", "--from", hub.url + "/x"]):
        done = run(*words, "--accept-license", at=tmp_path, hub=hub, env={"HF_HUB_OFFLINE": "1"})
        assert "HF_HUB_OFFLINE forbids the network: unset it, or name the file with --from FILE" in said_once(done, 4)
    (tmp_path / "mine").write_bytes(CONTENT)
    done = run("svd", "--accept-license", "--from", "mine", at=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0
    assert hub.asked == []


def test_what_the_hubs_library_has_cached_is_taken(tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub" / "models--stabilityai--stable-video-diffusion-img2vid"
    blob = cache / "blobs" / sha256(CONTENT)
    snapshot = cache / "snapshots" / COMMIT / "svd.safetensors"
    for path in (blob, snapshot):
        path.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    snapshot.symlink_to(blob)
    done = run("svd", "--accept-license", at=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert path.samefile(blob)
    assert not path.is_symlink()
    assert origin(path)["hub"]["revision"] == COMMIT  # type: ignore[index]


def test_a_file_of_ones_own_is_linked_and_recorded(tmp_path: Path) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(CONTENT)
    mine.chmod(0o600)
    done = run("svd", "--accept-license", "--from", mine, at=tmp_path)
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    assert f"{path}: linked, 200.0 kB, sha256 {sha256(CONTENT)}, recorded: none is published" in done.out
    assert path.samefile(mine)
    assert mine.stat().st_mode & 0o777 == 0o600
    assert origin(path)["from"] == str(mine)
    assert origin(path)["sha256_is"] == "recorded at first download"
    # What was recorded is what every later file is held against.
    path.unlink()
    path.write_bytes(bytes(len(CONTENT)))
    said = said_once(run("svd", at=tmp_path), 4)
    assert f"{path} has sha256 {sha256(bytes(len(CONTENT)))}, expected {sha256(CONTENT)}, to be renamed" in said
    (tmp_path / "other").write_bytes(CONTENT[::-1])
    said = said_once(run("svd", "--accept-license", "--from", "other", at=tmp_path), 4)
    assert f"other: has sha256 {sha256(CONTENT[::-1])}, expected {sha256(CONTENT)}" in said
    assert path.read_bytes() == bytes(len(CONTENT))
    done = run("svd", "--accept-license", "--from", mine, at=tmp_path)
    assert done.code == 0
    assert "set aside as svd.safetensors.damaged1" in done.err
    assert path.read_bytes() == CONTENT


def test_a_file_nothing_is_known_of_is_left_and_said(tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "checkpoints" / "svd.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    done = run("svd", at=tmp_path)
    assert f"{path}: there, 200.0 kB, not verified: no checksum is published and none was recorded" in done.out
    assert done.code == 0


def test_a_folder_that_has_the_archives(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "CharadesEgo.zip").write_bytes(b"lists")
    words = ["charades_ego", "--accept-license", "--from", "mirror"]
    assert "no CharadesEgo_v1_480.tar in that folder" in run(*words, at=tmp_path).err
    (mirror / "CharadesEgo_v1_480.tar").write_bytes(CONTENT)
    done = run(*words, at=tmp_path)
    assert done.code == 0, done.err
    archives = tmp_path / "workspace" / "data" / "charades_ego" / "archives"
    assert (archives / "CharadesEgo.zip").read_bytes() == b"lists"
    assert (archives / "CharadesEgo_v1_480.tar").read_bytes() == CONTENT
    assert done.out.splitlines()[-1] == "charades_ego: next, run repro data prepare charades_ego"
    assert "there, 200.0 kB" in run("charades_ego", at=tmp_path).out


def test_a_mirror_of_the_archives(tmp_path: Path, server: FileServer) -> None:
    done = run("charades_ego", "--accept-license", "--from", server.url + "/m/", at=tmp_path)
    assert done.code == 0, done.err
    assert [where for _, where, _ in server.asked] == ["/m/CharadesEgo.zip", "/m/CharadesEgo_v1_480.tar"]
    assert not [headers for _, _, headers in server.asked if "authorization" in headers]


def test_what_a_mirror_sends_is_verified(tmp_path: Path, server: FileServer) -> None:
    done = run("svd_xt", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert done.code == 4
    assert f"{server.url}/x?...: sent 200000 bytes with sha256 {sha256(CONTENT)}, expected sha256 b2652c23" in done.err
    done = run("videomaev2", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert "the server offers 200000 bytes, expected 4105433973" in done.err
    done = run("svd", "--accept-license", "--from", server.url + "/x?key=secret", at=tmp_path)
    assert done.code == 0
    files = [p for p in (tmp_path / "workspace").rglob("*") if p.is_file()]
    assert not [p for p in files if b"secret" in p.read_bytes()]
    assert "secret" not in done.out + done.err


def test_data_that_is_unpacked_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "workspace" / "data" / "animal_kingdom"
    (folder / "video").mkdir(parents=True)
    (folder / "AR_metadata.xlsx").touch()
    done = run("animal_kingdom", at=tmp_path)
    assert done.code == 0
    assert done.out == f"animal_kingdom: already unpacked in {folder}\n"


def test_data_and_checkpoints_may_lie_elsewhere(tmp_path: Path, server: FileServer) -> None:
    env = {"REPRO_CHECKPOINTS": str(tmp_path / "c"), "REPRO_DATA": str(tmp_path / "d")}
    for name in ("svd", "charades_ego"):
        assert run(name, "--accept-license", "--from", server.url + "/", at=tmp_path, env=env).code == 0
    assert (tmp_path / "c" / "svd.safetensors").is_file()
    assert (tmp_path / "d" / "charades_ego" / "archives" / "CharadesEgo.zip").is_file()


@pytest.mark.slow
def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path, server: FileServer) -> None:
    server.ways = [{"stall": 120_000}]
    words = ["fetch", "svd", "--accept-license", "--from", server.url + "/x"]
    first = subprocess.Popen([sys.executable, "-m", "repro", *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    part = tmp_path / "workspace" / "checkpoints" / "svd.safetensors.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    # A second one is refused while the first is at it.
    said = said_once(run(*words[1:], at=tmp_path), 2)
    assert "svd.safetensors is being fetched already" in said
    assert f'"pid": {first.pid}' in said
    assert "started" in run(at=tmp_path).out
    first.send_signal(signal.SIGKILL)
    first.wait()
    came = part.stat().st_size
    server.release.set()
    done = run(*words[1:], at=tmp_path)
    assert done.code == 0, done.err
    assert server.ranges_asked == [None, f"bytes={came}-"]
    assert (tmp_path / "workspace" / "checkpoints" / "svd.safetensors").read_bytes() == CONTENT


def test_an_interrupt_is_one_line_and_keeps_what_came(tmp_path: Path, server: FileServer) -> None:
    server.ways = [{"stall": 120_000}]
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
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130
    assert said == "repro: interrupted: finished work is kept; run the same command again to resume\n"
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


def test_what_is_there_and_wrong_goes_only_when_the_right_one_has_come(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, server: FileServer, reporter: RecordingReporter
) -> None:
    path = asset[0].path(asset[1])
    write_bytes(path, b"short")
    hashes = FileHashes(workspace.hashes)
    server.always = {"status": 404}
    with pytest.raises(MissingError):
        fetch.bring(*asset, server.url + "/a.bin", hashes, reporter)
    assert path.read_bytes() == b"short"
    server.always = {}
    brought = fetch.bring(*asset, server.url + "/a.bin", hashes, reporter)
    assert (brought.means, brought.published) == ("fetched", True)
    assert path.read_bytes() == CONTENT
    assert path.with_name("a.bin.damaged1").read_bytes() == b"short"
    assert reporter.warnings == [f"{path} has 5 bytes, expected 200000: set aside as a.bin.damaged1"]
    assert fetch.bring(*asset, None, hashes, reporter).means == "there"


def test_where_a_link_cannot_be_the_file_is_copied(
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
        patch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(UsageError, match=r"10 bytes free, 200\.0 kB needed for a\.bin"):
            fetch.bring(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    assert fetch.bring(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter).means == "copied"
    assert not path.samefile(tmp_path / "mine")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], bytes(len(CONTENT))])
def test_a_file_of_ones_own_that_is_not_the_one_is_refused(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(MissingError, match=r"mine: has .* expected"):
        fetch.bring(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    assert [p.name for p in workspace.checkpoints.iterdir()] == [".a.bin.lock"]


def test_a_damaged_origin_is_no_origin(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(CONTENT)
    fetch.bring(*asset, str(tmp_path / "mine"), FileHashes(workspace.hashes), reporter)
    path = asset[0].path(asset[1])
    for text in ("", "[]", '{"sha256": 7}', "{"):
        fetch.origin_path(path).write_text(text)
        assert fetch.read_origin(path) == {}
        assert fetch.bring(*asset, None, FileHashes(workspace.hashes), reporter).means == "there"


def test_a_file_that_is_being_fetched_is_left_alone(
    asset: tuple[Asset, RemoteFile], workspace: Workspace, reporter: RecordingReporter
) -> None:
    workspace.checkpoints.mkdir(parents=True)
    with (
        lock_file(workspace.checkpoints / ".a.bin.lock", "", ""),
        pytest.raises(UsageError, match=r"is being fetched already .*: wait for it to end"),
    ):
        fetch.bring(*asset, None, FileHashes(workspace.hashes), reporter)


def test_sdv2_is_the_file_of_svd_xt(workspace: Workspace) -> None:
    found = assets(workspace)
    assert found["sdv2"].path(found["sdv2"].files[0]) == found["svd_xt"].path(found["svd_xt"].files[0])
    assert found["sdv2"].files[0].hub == found["svd_xt"].files[0].hub


def test_the_command_names_a_workspace_that_is_not_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch_command("svd", Workspace(tmp_path / "workspace")) == "repro fetch svd --accept-license"
    there = Workspace(tmp_path / "my work")
    assert fetch_command("svd", there) == f"repro fetch svd --accept-license --workspace '{tmp_path}/my work'"
