"""One process at a time; the system frees a lock when its holder dies."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.core.errors import UsageError


@contextmanager
def locked(path: Path, busy: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path`.

    Raises:
        UsageError: another process holds it: `busy`, which process, `remedy`.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{busy} ({holder}): {remedy}") from error
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
        file.flush()
        yield
