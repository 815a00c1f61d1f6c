"""A real HTTP server on this machine, which can do what bad servers and bad lines do."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves `content` at every path; each request takes the next of `ways`, and behaves well when there are none."""

    content: bytes = b""
    etag: str | None = '"first"'
    ranges: bool = True
    ways: list[dict[str, object]] = field(default_factory=list)
    """Of one request each: status, headers, body, drop (bytes after which the line is cut), stall (bytes after which nothing
    comes until `release`), claim (a false Content-Length), chunked, unmeasured (no length at all), careless (If-Range is not heeded), etag."""
    always: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("range") for method, _, headers in self.asked if method == "GET"]


@contextmanager
def serving(content: bytes = b"", **settings: object) -> Iterator[FileServer]:
    state = FileServer(content, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.asked.append((self.command, self.path, headers))
            way = {**state.always, **(state.ways.pop(0) if state.ways and body else {})}
            try:
                _send(self, state, way, headers, body=body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _send(
    to: BaseHTTPRequestHandler, state: FileServer, way: dict[str, object], asked: dict[str, str], *, body: bool
) -> None:
    content = way.get("body", state.content)
    assert isinstance(content, bytes)
    etag = way.get("etag", state.etag)
    status, start = int(str(way.get("status", 200))), 0
    extra = dict(way.get("headers", {}))  # type: ignore[call-overload]
    wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
    same = way.get("careless") or asked.get("if-range", etag) == etag
    if status == 200 and wanted and state.ranges and same:
        start = int(wanted[1])
        if start >= len(content):
            status, extra["Content-Range"] = 416, f"bytes */{len(content)}"
        else:
            status, extra["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        extra |= way.get("range_headers", {})
    rest = b"" if status == 416 or status >= 300 else content[start:]
    to.send_response(status)
    if etag:
        to.send_header("ETag", str(etag))
    if way.get("chunked"):
        to.send_header("Transfer-Encoding", "chunked")
    elif not way.get("unmeasured"):
        to.send_header("Content-Length", str(way.get("claim", len(rest))))
    for name, value in extra.items():
        to.send_header(name, str(value))
    to.send_header("Connection", "close")
    to.end_headers()
    to.close_connection = True
    if not body:
        return
    cut = min(int(str(way.get("drop", len(rest)))), int(str(way.get("stall", len(rest)))))
    if way.get("chunked"):
        to.wfile.write(f"{cut:x}\r\n".encode() + rest[:cut] + b"\r\n")
        if cut == len(rest):
            to.wfile.write(b"0\r\n\r\n")
    else:
        to.wfile.write(rest[:cut])
    to.wfile.flush()
    if "stall" in way:
        state.release.wait(30)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
