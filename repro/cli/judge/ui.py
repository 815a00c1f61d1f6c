"""`repro ui`: MLflow's pages of the workspace's runs."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import WorkspaceOption, require_number
from repro.core.console import print_line, print_sentence
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.reading import open_in_place
from repro.core.workspace import open_workspace, tracking_from_environment

HOST = "127.0.0.1"
START = 120.0
"""Seconds to wait for the server's first answer: it imports for a few, on a busy machine for many."""
STOP = 3.0
"""Seconds that it gets to end."""


def ui(
    *,
    port: Annotated[int, Parameter(validator=require_number("--port", 1, 65535))] = 5000,
    workspace: WorkspaceOption = None,
) -> Exit:
    """Start MLflow's user interface on the workspace's runs, and print the link to them. Ctrl-C ends it.

    It listens on 127.0.0.1, for this machine alone. If MLFLOW_TRACKING_URI names a server, starts nothing and prints the link.

    Example: `repro ui --port 5001`

    Args:
        port: Port to listen on.
    """
    opened, tracking = open_workspace(workspace), tracking_from_environment()
    database = opened.mlflow_db
    # Refused before seconds of imports.
    if tracking.uri and not tracking.uri.startswith("http"):
        raise UsageError(
            f"MLFLOW_TRACKING_URI {tracking.shown}: no address of a server: run `mlflow ui` on it, or unset it to see {database}"
        )
    if not tracking.uri and not database.is_file():
        raise MissingError(
            f"{database}: no runs are logged: run a row with `repro ROW`, then `repro ui`, or `repro track`"
        )
    if not tracking.uri:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise UsageError(
                    f"--port {port}: {error.strerror}: name another port, as --port {port % 65535 + 1}"
                ) from error
    from repro.records.mlflow_view import find_shown_experiment

    experiment = find_shown_experiment(opened)
    if tracking.uri:
        print_sentence(
            f"runs are logged to the server of MLFLOW_TRACKING_URI: {tracking.shown}/#/experiments/{experiment}/runs"
        )
        return Exit.OK
    opened.require_writable()
    words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    words += [
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--default-artifact-root",
        opened.mlflow_artifacts.as_uri(),
    ]
    # SIGTERM would end this process and leave the server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own, so that it and its workers can be ended together. What it prints are requests and its bare address.
    log = opened.root / "mlflow-ui.log"
    with open(log, "w", opener=open_in_place) as file:
        server = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603  # No shell.
    try:
        _wait_until_ready(server, port, log)
        print_line(f"http://{HOST}:{port}/#/experiments/{experiment}/runs", flush=True)
        print_sentence(f"Ctrl-C ends it; its log is {log}")
        sys.stdout.flush()
        server.wait()
        raise UsageError(f"{log}: MLflow's server ended: {_last_line(log)}")
    except KeyboardInterrupt:
        return Exit.OK
    finally:
        _stop(server)


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with suppress(OSError, urllib.error.URLError):
            # Not through a proxy that the environment names: the address is this machine's.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise UsageError(f"{log}: MLflow's server did not start: {_last_line(log)}: name another --port, or see the log")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it printed nothing"


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP)
            return
