"""A file is complete and as expected, or not there at all; received bytes are not requested again."""

import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.fileserver import FileServer, serve_file, sha256
from builders.reporters import RecordingReporter

from repro.core.errors import MissingError, ReproError, UsageError
from repro.fetch import download as downloads
from repro.fetch import http_client as web
from repro.fetch.http_client import DownloadSource

CONTENT = os.urandom(300_000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_file(CONTENT) as state:
        yield state


def known_source(server: FileServer) -> DownloadSource:
    return DownloadSource(f"{server.url}/a/file.bin", len(CONTENT), sha256(CONTENT))


def unknown_source(server: FileServer) -> DownloadSource:
    """A file of which neither length nor sha256 is published."""
    return DownloadSource(f"{server.url}/a/file.bin")


def fetch_from(source: DownloadSource, path: Path, reporter: RecordingReporter) -> bytes:
    """Download and rename to the final name, as `repro fetch` does."""
    part, digest = downloads.download_to_part(source, path, reporter)
    assert not path.exists()
    downloads.move_into_place(part, path)
    assert sha256(path.read_bytes()) == digest
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "there" / "file.bin"


def list_names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_a_download_leaves_only_the_file(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert list_names(path) == ["file.bin"]
    assert server.requested_ranges == [None]


@pytest.mark.parametrize("describe", [known_source, unknown_source])
def test_a_dropped_connection_is_resumed(
    server: FileServer, path: Path, reporter: RecordingReporter, describe: object
) -> None:
    server.faults = [{"drop": 100_000}, {"drop": 50_000}]
    assert fetch_from(describe(server), path, reporter) == CONTENT  # type: ignore[operator]
    assert server.requested_ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1][2]["if-range"] == '"first"'
    assert reporter.lines == [
        "file.bin: the connection dropped at 100.0 kB of 300.0 kB: trying again in 0 s",
        "file.bin: the connection dropped at 150.0 kB of 300.0 kB: trying again in 0 s",
    ]


def test_progress_resets_the_count_of_retries(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.faults = [{"drop": 20_000} for _ in range(10)]
    assert fetch_from(known_source(server), path, reporter) == CONTENT


def test_after_too_many_drops_the_part_is_kept_for_the_next_call(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.faults = [{"drop": 200_000}, *({"drop": 0} for _ in range(4))]
    with pytest.raises(
        MissingError, match=r"4 times in a row: the 200\.0 kB received are kept; rerun the command to resume"
    ):
        fetch_from(known_source(server), path, reporter)
    assert list_names(path) == ["file.bin.part", "file.bin.part.json"]
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert server.requested_ranges[-1] == "bytes=200000-"
    assert list_names(path) == ["file.bin"]


def test_an_interrupt_keeps_the_part(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = [{"drop": 100_000}]

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_from(known_source(server), path, reporter)
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_sends_the_complete_file(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.ranges = False
    server.faults = [{"drop": 100_000}]
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=100000-"]


def test_retries_end_if_a_server_ignores_ranges_and_always_drops(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.ranges, server.always = False, {"drop": 100_000}
    with pytest.raises(MissingError, match="4 times in a row"):
        fetch_from(known_source(server), path, reporter)


@pytest.mark.parametrize("describe", [known_source, unknown_source])
def test_a_file_that_changes_meanwhile_is_downloaded_again(
    server: FileServer, path: Path, reporter: RecordingReporter, describe: object
) -> None:
    server.faults = [{"drop": 100_000, "etag": '"old"', "body": bytes(len(CONTENT))}]
    assert fetch_from(describe(server), path, reporter) == CONTENT  # type: ignore[operator]


def test_a_rest_of_another_file_is_not_appended(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    """Servers that heed Range but not If-Range, or send another range."""
    for wrong in (
        {"etag": '"other"', "careless": True},
        {"range_headers": {"Content-Range": "bytes 0-9/300000"}},
        {"range_headers": {"Content-Range": "bytes 100000-299999/300001"}},
        {"range_headers": {"Content-Range": "nonsense"}},
        {"status": 206},
        {"status": 416, "headers": {"Content-Range": "bytes */7"}},
    ):
        server.requests.clear()
        server.faults = [{"drop": 100_000}, wrong]
        assert fetch_from(unknown_source(server), path, reporter) == CONTENT, wrong
        path.unlink()


def test_a_part_without_validator_is_resumed_only_if_the_sha256_is_known(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.etag = None
    server.faults = [{"drop": 100_000}]
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=100000-"]
    path.unlink()
    server.faults = [{"drop": 100_000}]
    assert fetch_from(unknown_source(server), path, reporter) == CONTENT
    assert server.requested_ranges[2:] == [None, None]


def test_the_date_of_change_replaces_a_weak_etag(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.etag, date = 'W/"weak"', "Wed, 10 Jul 2024 10:00:00 GMT"
    server.faults = [{"drop": 100_000, "headers": {"Last-Modified": date}}]
    assert fetch_from(unknown_source(server), path, reporter) == CONTENT
    assert server.requests[1][2]["if-range"] == date


def test_a_part_of_another_address_is_not_used(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.faults = [{"drop": 100_000}, *({"drop": 0} for _ in range(3))]
    with pytest.raises(MissingError):
        fetch_from(known_source(server), path, reporter)
    other = DownloadSource(f"{server.url}/mirror/file.bin", len(CONTENT), sha256(CONTENT))
    assert fetch_from(other, path, reporter) == CONTENT
    assert server.requested_ranges[-1] is None


def test_a_complete_part_is_not_requested_again(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    downloads.download_to_part(known_source(server), path, reporter)
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert len(server.requests) == 1


def test_a_complete_part_of_unknown_length_is_confirmed_by_416(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    downloads.download_to_part(unknown_source(server), path, reporter)
    memory = path.with_name("file.bin.part.json")
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"total": None}))
    assert fetch_from(unknown_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=300000-"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"source": 1, "validator": 2, "total": "x"}', "\xff"])
def test_a_part_with_damaged_info_is_downloaded_again(
    server: FileServer, path: Path, reporter: RecordingReporter, text: str
) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(b"something" * 50_000)
    path.with_name("file.bin.part.json").write_text(text, encoding="latin-1")
    assert fetch_from(unknown_source(server), path, reporter) == CONTENT


def test_wrong_bytes_are_set_aside_and_never_renamed_to_the_file(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.always = {"body": bytes(len(CONTENT))}
    for n in (1, 2):
        with pytest.raises(
            MissingError, match=f"expected sha256 {sha256(CONTENT)}: set aside as .*damaged{n}; run it again"
        ):
            fetch_from(known_source(server), path, reporter)
    assert list_names(path) == ["file.bin.part.damaged1", "file.bin.part.damaged2"]
    server.always = {}
    assert fetch_from(known_source(server), path, reporter) == CONTENT


def test_a_wrong_length_is_refused_before_anything_is_written(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.always = {"body": CONTENT[:-1]}
    with pytest.raises(MissingError, match="the server offers 299999 bytes, expected 300000"):
        fetch_from(known_source(server), path, reporter)
    assert list_names(path) == []


def test_a_content_length_that_is_too_long(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.always = {"claim": 300_500}
    with pytest.raises(MissingError, match="times in a row"):
        fetch_from(unknown_source(server), path, reporter)
    assert not path.exists()


def test_a_content_length_that_is_too_short(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.always = {"claim": 1000}
    with pytest.raises(MissingError, match="expected sha256"):
        fetch_from(DownloadSource(f"{server.url}/x", sha256=sha256(CONTENT)), path, reporter)
    assert list_names(path) == ["file.bin.part.damaged1"]


def test_chunked_responses_are_resumed(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.faults = [{"chunked": True, "drop": 100_000}, {"drop": 50_000}, {"chunked": True}]
    assert fetch_from(unknown_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_of_unknown_length_needs_a_sha256(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.always = {"unmeasured": True}
    with pytest.raises(MissingError, match="does not say how long the file is"):
        fetch_from(unknown_source(server), path, reporter)
    server.faults = [{"drop": 100_000}]
    assert fetch_from(known_source(server), path, reporter) == CONTENT


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"status": 401},
            r"access denied \(HTTP 401\): download the file yourself and name it with --from",
        ),
        ({"status": 403}, r"HTTP 403"),
        ({"status": 404}, r"not found \(HTTP 404\): name another place with --from URL or --from FILE"),
        ({"status": 410}, r"not found \(HTTP 410\)"),
        ({"status": 418}, r"answers HTTP 418, expected the file"),
        ({"status": 503}, r"answers HTTP 503, 4 times in a row: try again later"),
        ({"status": 204}, r"answers HTTP 204"),
        ({"body": b""}, "a web page or nothing"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page or nothing"),
        ({"headers": {"Content-Encoding": "gzip"}}, "compressed"),
        ({"status": 302, "headers": {"Location": "/again"}}, "HTTP 302"),
        ({"status": 302}, "HTTP 302"),
        ({"status": 302, "headers": {"Location": "ftp://127.0.0.1/x"}}, "not https: not followed"),
        ({"status": 302, "headers": {"Location": "file:///etc/passwd"}}, "HTTP 302"),
    ],
)
def test_a_refusal_is_one_line(
    server: FileServer, path: Path, reporter: RecordingReporter, fault: dict[str, object], message: str
) -> None:
    server.always = fault
    with pytest.raises(ReproError, match=message) as raised:
        fetch_from(unknown_source(server), path, reporter)
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value) or fault.get("status") == 503
    assert list_names(path) == []


def test_temporary_statuses_are_retried(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.faults = [{"status": 503}, {"status": 429}]
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert "answers HTTP 503: trying again" in reporter.lines[0]


def test_a_redirect_is_followed_without_sending_the_login_to_another_host(
    path: Path, reporter: RecordingReporter
) -> None:
    with serve_file(CONTENT) as here, serve_file(CONTENT) as elsewhere:
        here.faults = [
            {"status": 302, "headers": {"Location": "/moved"}},
            {"status": 307, "headers": {"Location": f"{elsewhere.url}/signed?key=1"}},
        ]
        source = DownloadSource(f"{here.url}/x", authorization="Bearer secret")
        assert fetch_from(source, path, reporter) == CONTENT
        assert [headers.get("authorization") for _, _, headers in here.requests] == ["Bearer secret"] * 2
        assert [headers.get("authorization") for _, _, headers in elsewhere.requests] == [None]
    assert "secret" not in repr(source)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = web.Request("https://example.org/x")
    with pytest.raises(MissingError, match=r"leads to http://example\.org/y\?\.\.\., which is not https"):
        web._SafeRedirects().redirect_request(request, io.BytesIO(), 302, "", None, "http://example.org/y?key=1")  # type: ignore[arg-type]


def test_a_silent_server_counts_as_dropped(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    server.faults = [{"stall": 100_000}]
    assert fetch_from(known_source(server), path, reporter) == CONTENT
    assert server.requested_ranges == [None, "bytes=100000-"]
    assert "no data arrived in time" in reporter.lines[0]


def test_a_refused_connection_is_retried(path: Path, reporter: RecordingReporter) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(MissingError, match=r"Connection refused.*4 times in a row: try again later"):
        fetch_from(DownloadSource(f"http://127.0.0.1:{port}/x"), path, reporter)


def test_an_unknown_host_is_not_retried(
    path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_name(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    with pytest.raises(MissingError, match="host not found"):
        fetch_from(DownloadSource("http://nowhere.example/x"), path, reporter)
    assert reporter.lines == []


@pytest.mark.parametrize("url", ["http://[broken/x", "http://host:port/x", "http://127.0.0.1/ü"])
def test_an_invalid_address_is_refused(path: Path, reporter: RecordingReporter, url: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        fetch_from(DownloadSource(url), path, reporter)


def test_disk_space_is_checked_before_the_first_byte(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    disk(299_999)
    for source in (known_source(server), unknown_source(server)):
        with pytest.raises(UsageError, match=r"there: 300.0 kB free, 300.0 kB needed for file\.bin: free space"):
            fetch_from(source, path, reporter)
    assert list_names(path) == ["file.bin.part.json"]
    disk(200_000)
    path.with_name("file.bin.part").write_bytes(CONTENT[:100_000])
    assert fetch_from(known_source(server), path, reporter) == CONTENT


def test_query_and_user_name_of_an_address_are_not_printed() -> None:
    assert web.printable_url("https://me:pass@host:8080/a/b?token=x#y") == "https://host:8080/a/b?..."
    assert web.printable_url("https://host/a") == "https://host/a"
