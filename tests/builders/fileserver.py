"""A real HTTP server on this machine that can misbehave as bad servers and bad connections do."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves `content` at every path that `contents` does not have. Each GET takes the next of `faults`; without one it is answered correctly."""

    content: bytes = b""
    contents: dict[str, bytes] = field(default_factory=dict)
    """By path."""
    etag: str | None = '"first"'
    ranges: bool = True
    faults: list[dict[str, object]] = field(default_factory=list)
    """How single responses differ from correct ones:

    status, headers, body, etag   sent in place of the correct ones
    range_headers                 added to partial responses
    drop                          bytes after which the connection is closed
    stall                         bytes after which nothing is sent until `release` is set
    claim                         a false Content-Length
    chunked                       sent in chunks, without Content-Length
    unmeasured                    without any length
    careless                      If-Range is ignored
    """
    always: dict[str, object] = field(default_factory=dict)
    """Faults of every response."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def requested_ranges(self) -> list[str | None]:
        return [headers.get("range") for method, _, headers in self.requests if method == "GET"]


@contextmanager
def serve_file(content: bytes = b"", **settings: object) -> Iterator[FileServer]:
    """Serve `content` on a free port while the block runs; `settings` are fields of FileServer."""
    state = FileServer(content, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_answer(body=False)

        def do_GET(self) -> None:
            self.send_answer(body=True)

        def send_answer(self, *, body: bool) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append((self.command, self.path, headers))
            fault = {**state.always, **(state.faults.pop(0) if state.faults and body else {})}
            try:
                _send_response(self, state, fault, headers, body=body)
            except (BrokenPipeError, ConnectionResetError):  # the client was killed, or gave up
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    # serve_forever polls for shutdown: its default of 0.5 s would be most of a test's time.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()  # else a stalled response keeps its thread for 30 s
        server.shutdown()
        server.server_close()
        thread.join()


def _send_response(
    to: BaseHTTPRequestHandler, state: FileServer, fault: dict[str, object], headers: dict[str, str], *, body: bool
) -> None:
    content = fault.get("body", state.contents.get(to.path, state.content))
    assert isinstance(content, bytes)
    etag = fault.get("etag", state.etag)
    status, start = int(str(fault.get("status", 200))), 0
    extra = dict(fault.get("headers", {}))  # type: ignore[call-overload]
    requested = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
    # If-Range: the rest is sent only if the client's part is of this version, else all of the file.
    same_version = fault.get("careless") or headers.get("if-range", etag) == etag
    if status == 200 and requested and state.ranges and same_version:
        start = int(requested[1])
        if start >= len(content):
            status, extra["Content-Range"] = 416, f"bytes */{len(content)}"
        else:
            status, extra["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        extra |= fault.get("range_headers", {})
    rest = b"" if status == 416 or status >= 300 else content[start:]
    to.send_response(status)
    if etag:
        to.send_header("ETag", str(etag))
    if fault.get("chunked"):
        to.send_header("Transfer-Encoding", "chunked")
    elif not fault.get("unmeasured"):
        to.send_header("Content-Length", str(fault.get("claim", len(rest))))
    for name, value in extra.items():
        to.send_header(name, str(value))
    to.send_header("Connection", "close")
    to.end_headers()
    to.close_connection = True
    if not body:
        return
    cut = min(int(str(fault.get("drop", len(rest)))), int(str(fault.get("stall", len(rest)))))
    if fault.get("chunked"):
        to.wfile.write(f"{cut:x}\r\n".encode() + rest[:cut] + b"\r\n")
        if cut == len(rest):
            to.wfile.write(b"0\r\n\r\n")  # the last chunk; without it the connection counts as dropped
    else:
        to.wfile.write(rest[:cut])
    to.wfile.flush()
    if "stall" in fault:
        state.release.wait(30)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
