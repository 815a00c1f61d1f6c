"""Processes that hang or die where decord reads, for tests of the audit. On its own, as each process imports it."""

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from repro.video.probe import read_whole


def _serve_with(pipe: Connection, act: Callable[[], object]) -> None:
    while True:
        path, reader, _ = pipe.recv()
        if reader == "decord":
            act()
        pipe.send(read_whole(path, reader, lambda: None))


def hang_in_decord(pipe: Connection) -> None:
    _serve_with(pipe, lambda: time.sleep(600))


def die_in_decord(pipe: Connection) -> None:
    _serve_with(pipe, lambda: os._exit(9))


def die(pipe: Connection) -> None:
    pipe.recv()
    os._exit(9)
