"""Results of slow computations, kept in files of a workspace between commands by what they were computed from.

A file has one signed line per result, and names the code that computed it. It is signed by whoever wrote it, and a copied
workspace may bring one of its own: a result counts only while the files that it was computed from have the ctime that they had then,
which a copy has not and nobody can set; and each command verifies one of the results it uses, and uses none if that one is wrong.
"""

import base64
import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from repro.core.files import set_aside
from repro.core.hashing import content_sha256, file_sha256
from repro.core.reading import open_in_place, read_bytes
from repro.core.signed import parse_signed_json

MOST_ARRAYS = 1 << 30
"""Bytes of the arrays of one result, unpacked."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Computation(Generic[Item, Result]):
    """A computation whose results can be kept."""

    code: str
    """sha256 of the code (`hash_code`): results of other code are not used."""
    compute: Callable[[Item], Result]
    verify: Callable[[Item, Result], bool]
    """Whether a kept result is that of the item, up to what processors round in other ways."""
    dump: Callable[[Result], Mapping[str, Any]]
    """Return a result as JSON."""
    parse: Callable[[dict[str, Any]], Result]
    """Return what `dump` was given."""
    stamp: Callable[[Item], str] = lambda item: ""
    """Return the stamps (`stamp_file`) of the files that an item's result is computed from."""


class Memory(Generic[Item, Result]):
    """The results of one computation, computed once."""

    def __init__(
        self,
        computation: Computation[Item, Result],
        path: Path | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start with what is kept at `path`; None keeps and reads nothing. `warn` is called if a kept result is wrong."""
        self._computation, self._path, self._warn = computation, path, warn
        self._known: dict[str, Result] = {}
        self._is_read = False
        self._is_verified = False
        self._lock = Lock()

    def recall(self, wanted: Mapping[str, Item]) -> dict[str, Result]:
        """Return the results of items by their keys: those that are known, and the others computed on all cores.

        Args:
            wanted: Items by key. Items with the same key have the same result.
        """
        by_key = {key: f"{key} {self._computation.stamp(item)}".rstrip() for key, item in wanted.items()}
        found = self._recall({by_key[key]: item for key, item in wanted.items()})
        return {key: found[stamped] for key, stamped in by_key.items()}

    def _recall(self, wanted: Mapping[str, Item]) -> dict[str, Result]:
        with self._lock:
            known = self._find_known(wanted)
        missing = [key for key in wanted if key not in known]
        if missing:
            # NumPy computes without the interpreter's lock.
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                computed = pool.map(self._computation.compute, [wanted[key] for key in missing])
                found = dict(zip(missing, computed, strict=True))
            if self._path is not None:
                dumped = {key: self._computation.dump(result) for key, result in found.items()}
                _append_results(self._path, self._computation.code, dumped)
            with self._lock:
                self._known |= found
            known |= found
        return {key: known[key] for key in wanted}

    def _find_known(self, wanted: Mapping[str, Item]) -> dict[str, Result]:
        if not self._is_read:
            self._is_read = True
            for key, values in _read_results(self._path, self._computation.code).items():
                with suppress(ValueError, TypeError, KeyError, OSError):
                    self._known[key] = self._computation.parse(values)
        known = {key: self._known[key] for key in wanted if key in self._known}
        if not known or self._is_verified:
            return known
        self._is_verified = True
        # Any of them, another in each command: whoever forges a file cannot know which result has to be right.
        sample = random.choice(sorted(known))  # noqa: S311
        # What this process computed needs no check, and what it did not was read from a file.
        if self._path is None or self._computation.verify(wanted[sample], known[sample]):
            return known
        name = set_aside(self._path).name
        self._warn(f"{self._path}: not what its predictions give: kept as {name}, computing all again")
        self._known.clear()
        return {}


def stamp_file(path: Path) -> str:
    """Return when a file was last changed in any way, as the system states it; empty if it cannot."""
    try:
        return f"{path.stat().st_ctime_ns}"
    except OSError:
        return ""


def hash_code(*modules: str | None) -> str:
    """Return the sha256 of source files."""
    return content_sha256([file_sha256(Path(file or "")) for file in modules])


def dump_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return arrays of numbers as text."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping
    return base64.b64encode(file.getvalue()).decode()


def parse_arrays(text: str) -> dict[str, np.ndarray]:
    """Return what `dump_arrays` was given.

    Raises:
        ValueError: the text is not that of arrays.
    """
    content = base64.b64decode(text, validate=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_ARRAYS:
                raise ValueError(f"arrays of more than {MOST_ARRAYS} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zip files and headers of arrays can be damaged in any way
        raise ValueError(f"not arrays ({type(error).__name__})") from error


def _read_results(path: Path | None, code: str) -> dict[str, dict[str, Any]]:
    try:
        lines = [] if path is None else read_bytes(path).splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        if code.encode() not in line:
            continue
        # The last line of a killed writer, or one of another version.
        with suppress(ValueError, TypeError, KeyError):
            raw, intact = parse_signed_json(line)
            if intact and raw["code"] == code:
                # Of several lines with one key, the last was written last.
                found[str(raw["predictions"])] = dict(raw["found"])
    return found


def _append_results(path: Path, code: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    lines = []
    for of, result in found.items():
        value = {"predictions": of, "code": code, "found": result}
        lines.append(json.dumps(value | {"sha256": content_sha256(value)}) + "\n")
    # A read-only workspace costs the next command its time, and nothing else. One write, in append mode: processes that share
    # the file do not mix their lines.
    with suppress(OSError):
        handle = open_in_place(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, "".join(lines).encode())
        finally:
            os.close(handle)
