"""A file arrives whole and as expected, or not at all; what has come is not asked for again."""

import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.fileserver import FileServer, serving, sha256
from builders.reporters import RecordingReporter

from repro.core.errors import MissingError, ReproError, UsageError
from repro.fetch import download as downloads
from repro.fetch import http_client as web
from repro.fetch.http_client import Source

CONTENT = os.urandom(300_000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


def good(server: FileServer) -> Source:
    return Source(f"{server.url}/a/file.bin", len(CONTENT), sha256(CONTENT))


def unknown(server: FileServer) -> Source:
    """A file of which neither length nor sha256 is published."""
    return Source(f"{server.url}/a/file.bin")


def get(source: Source, path: Path, reporter: RecordingReporter) -> bytes:
    """Download and put in place, as `repro fetch` does."""
    part, digest = downloads.download(source, path, reporter)
    assert not path.exists()
    downloads.finish(part, path)
    assert sha256(path.read_bytes()) == digest
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "there" / "file.bin"


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_arrives_and_nothing_else_is_left(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    assert get(good(server), path, reporter) == CONTENT
    assert names(path) == ["file.bin"]
    assert server.ranges_asked == [None]


@pytest.mark.parametrize("known", [good, unknown])
def test_a_dropped_connection_is_resumed_where_it_broke(
    server: FileServer, path: Path, reporter: RecordingReporter, known: object
) -> None:
    server.ways = [{"drop": 100_000}, {"drop": 50_000}]
    assert get(known(server), path, reporter) == CONTENT  # type: ignore[operator]
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]
    assert server.asked[1][2]["if-range"] == '"first"'
    assert reporter.lines == [
        "file.bin: the connection dropped at 100.0 kB of 300.0 kB: trying again in 0 s",
        "file.bin: the connection dropped at 150.0 kB of 300.0 kB: trying again in 0 s",
    ]


def test_progress_begins_the_row_of_tries_anew(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.ways = [{"drop": 20_000} for _ in range(10)]
    assert get(good(server), path, reporter) == CONTENT


def test_after_too_many_drops_what_came_is_kept_for_the_next_call(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.ways = [{"drop": 200_000}, *({"drop": 0} for _ in range(4))]
    with pytest.raises(
        MissingError, match=r"4 times in a row: the 200\.0 kB that came are kept, the same command goes on"
    ):
        get(good(server), path, reporter)
    assert names(path) == ["file.bin.part", "file.bin.part.json"]
    assert get(good(server), path, reporter) == CONTENT
    assert server.ranges_asked[-1] == "bytes=200000-"
    assert names(path) == ["file.bin"]


def test_an_interrupt_leaves_what_came(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ways = [{"drop": 100_000}]

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(good(server), path, reporter)
    assert get(good(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_begins_anew(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.ranges = False
    server.ways = [{"drop": 100_000}]
    assert get(good(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_and_always_drops_is_given_up(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.ranges, server.always = False, {"drop": 100_000}
    with pytest.raises(MissingError, match="4 times in a row"):
        get(good(server), path, reporter)


@pytest.mark.parametrize("known", [good, unknown])
def test_a_file_that_changes_meanwhile_is_begun_anew(
    server: FileServer, path: Path, reporter: RecordingReporter, known: object
) -> None:
    server.ways = [{"drop": 100_000, "etag": '"old"', "body": bytes(len(CONTENT))}]
    assert get(known(server), path, reporter) == CONTENT  # type: ignore[operator]


def test_a_rest_of_another_file_is_not_appended(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    """Servers that heed Range and not If-Range, or answer with another part."""
    for wrong in (
        {"etag": '"other"', "careless": True},
        {"range_headers": {"Content-Range": "bytes 0-9/300000"}},
        {"range_headers": {"Content-Range": "bytes 100000-299999/300001"}},
        {"range_headers": {"Content-Range": "nonsense"}},
        {"status": 206},
        {"status": 416, "headers": {"Content-Range": "bytes */7"}},
    ):
        server.asked.clear()
        server.ways = [{"drop": 100_000}, wrong]
        assert get(unknown(server), path, reporter) == CONTENT, wrong
        path.unlink()


def test_without_a_sign_of_its_version_a_part_is_used_only_where_the_sha256_is_known(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.etag = None
    server.ways = [{"drop": 100_000}]
    assert get(good(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]
    path.unlink()
    server.ways = [{"drop": 100_000}]
    assert get(unknown(server), path, reporter) == CONTENT
    assert server.ranges_asked[2:] == [None, None]


def test_a_date_of_change_stands_in_for_an_etag(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.etag, date = 'W/"weak"', "Wed, 10 Jul 2024 10:00:00 GMT"
    server.ways = [{"drop": 100_000, "headers": {"Last-Modified": date}}]
    assert get(unknown(server), path, reporter) == CONTENT
    assert server.asked[1][2]["if-range"] == date


def test_a_part_of_another_address_is_not_used(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.ways = [{"drop": 100_000}, *({"drop": 0} for _ in range(3))]
    with pytest.raises(MissingError):
        get(good(server), path, reporter)
    other = Source(f"{server.url}/mirror/file.bin", len(CONTENT), sha256(CONTENT))
    assert get(other, path, reporter) == CONTENT
    assert server.ranges_asked[-1] is None


def test_a_part_that_is_whole_is_not_asked_for_again(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    downloads.download(good(server), path, reporter)
    assert get(good(server), path, reporter) == CONTENT
    assert len(server.asked) == 1


def test_a_whole_part_of_unknown_length_ends_in_416(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    downloads.download(unknown(server), path, reporter)
    memory = path.with_name("file.bin.part.json")
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"total": None}))
    assert get(unknown(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=300000-"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"source": 1, "validator": 2, "total": "x"}', "\xff"])
def test_a_part_nothing_is_known_of_is_begun_anew(
    server: FileServer, path: Path, reporter: RecordingReporter, text: str
) -> None:
    path.parent.mkdir()
    path.with_name("file.bin.part").write_bytes(b"something" * 50_000)
    path.with_name("file.bin.part.json").write_text(text, encoding="latin-1")
    assert get(unknown(server), path, reporter) == CONTENT


def test_wrong_bytes_are_set_aside_and_never_put_in_place(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.always = {"body": bytes(len(CONTENT))}
    for n in (1, 2):
        with pytest.raises(
            MissingError, match=f"expected sha256 {sha256(CONTENT)}: set aside as .*damaged{n}; run it again"
        ):
            get(good(server), path, reporter)
    assert names(path) == ["file.bin.part.damaged1", "file.bin.part.damaged2"]
    server.always = {}
    assert get(good(server), path, reporter) == CONTENT


def test_another_length_is_refused_before_a_byte_is_kept(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.always = {"body": CONTENT[:-1]}
    with pytest.raises(MissingError, match="the server offers 299999 bytes, expected 300000"):
        get(good(server), path, reporter)
    assert names(path) == []


def test_a_server_that_promises_more_than_it_has(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.always = {"claim": 300_500}
    with pytest.raises(MissingError, match="times in a row"):
        get(unknown(server), path, reporter)
    assert not path.exists()


def test_a_server_that_promises_less_than_it_sends(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.always = {"claim": 1000}
    with pytest.raises(MissingError, match="expected sha256"):
        get(Source(f"{server.url}/x", sha256=sha256(CONTENT)), path, reporter)
    assert names(path) == ["file.bin.part.damaged1"]


def test_chunks_without_a_length(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.ways = [{"chunked": True, "drop": 100_000}, {"drop": 50_000}, {"chunked": True}]
    assert get(unknown(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_whose_end_cannot_be_told_is_refused(
    server: FileServer, path: Path, reporter: RecordingReporter
) -> None:
    server.always = {"unmeasured": True}
    with pytest.raises(MissingError, match="does not say how long the file is"):
        get(unknown(server), path, reporter)
    server.ways = [{"drop": 100_000}]
    assert get(good(server), path, reporter) == CONTENT


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (
            {"status": 401},
            r"only to those who may have it \(HTTP 401\): bring the file yourself and name it with --from",
        ),
        ({"status": 403}, r"HTTP 403"),
        ({"status": 404}, r"not there \(HTTP 404\): name another place with --from URL or --from FILE"),
        ({"status": 410}, r"not there \(HTTP 410\)"),
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
    server: FileServer, path: Path, reporter: RecordingReporter, way: dict[str, object], said: str
) -> None:
    server.always = way
    with pytest.raises(ReproError, match=said) as raised:
        get(unknown(server), path, reporter)
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value) or way.get("status") == 503
    assert names(path) == []


def test_what_passes_is_waited_for(server: FileServer, path: Path, reporter: RecordingReporter) -> None:
    server.ways = [{"status": 503}, {"status": 429}]
    assert get(good(server), path, reporter) == CONTENT
    assert "answers HTTP 503: trying again" in reporter.lines[0]


def test_a_redirect_is_followed_and_takes_no_login_to_another_host(path: Path, reporter: RecordingReporter) -> None:
    with serving(CONTENT) as here, serving(CONTENT) as elsewhere:
        here.ways = [
            {"status": 302, "headers": {"Location": "/moved"}},
            {"status": 307, "headers": {"Location": f"{elsewhere.url}/signed?key=1"}},
        ]
        source = Source(f"{here.url}/x", authorization="Bearer secret")
        assert get(source, path, reporter) == CONTENT
        assert [headers.get("authorization") for _, _, headers in here.asked] == ["Bearer secret"] * 2
        assert [headers.get("authorization") for _, _, headers in elsewhere.asked] == [None]
    assert "secret" not in repr(source)


def test_from_https_to_http_is_not_followed() -> None:
    request = web.Request("https://example.org/x")
    with pytest.raises(MissingError, match=r"leads to http://example\.org/y\?\.\.\., which is not https"):
        web._Redirects().redirect_request(request, io.BytesIO(), 302, "", None, "http://example.org/y?key=1")  # type: ignore[arg-type]


def test_a_server_that_falls_silent_counts_as_dropped(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    server.ways = [{"stall": 100_000}]
    assert get(good(server), path, reporter) == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]
    assert "nothing came in time" in reporter.lines[0]


def test_nobody_listens(path: Path, reporter: RecordingReporter) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(MissingError, match=r"Connection refused.*4 times in a row: try again later"):
        get(Source(f"http://127.0.0.1:{port}/x"), path, reporter)


def test_no_such_host_is_said_at_once(path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_name(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    with pytest.raises(MissingError, match="no such host can be found from here"):
        get(Source("http://nowhere.example/x"), path, reporter)
    assert reporter.lines == []


@pytest.mark.parametrize("url", ["http://[broken/x", "http://host:port/x", "http://127.0.0.1/ü"])
def test_what_is_no_address(path: Path, reporter: RecordingReporter, url: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        get(Source(url), path, reporter)


def test_room_is_asked_for_before_the_first_byte(
    server: FileServer, path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    disk(299_999)
    for source in (good(server), unknown(server)):
        with pytest.raises(UsageError, match=r"there: 300.0 kB free, 300.0 kB needed for file\.bin: make room"):
            get(source, path, reporter)
    assert names(path) == ["file.bin.part.json"]
    disk(200_000)
    path.with_name("file.bin.part").write_bytes(CONTENT[:100_000])
    assert get(good(server), path, reporter) == CONTENT


def test_a_query_or_a_name_in_an_address_is_not_shown() -> None:
    assert web.shown("https://me:pass@host:8080/a/b?token=x#y") == "https://host:8080/a/b?..."
    assert web.shown("https://host/a") == "https://host/a"
