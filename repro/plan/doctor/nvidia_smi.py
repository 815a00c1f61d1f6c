"""What nvidia-smi lists: the machine's GPUs, whatever this process sees of them."""

import subprocess
from dataclasses import dataclass

COMMAND = ("nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader")
TIME_LIMIT = 10.0
"""Seconds for nvidia-smi, which hangs when a GPU has fallen off the bus."""


@dataclass(frozen=True, slots=True)
class ListedGpus:
    """The answer of nvidia-smi."""

    names: tuple[str, ...] = ()
    driver: str = ""
    """Version of the driver; empty if it is not known."""
    failure: str = ""
    """Why no GPU is listed; empty if one is."""


def query_gpus() -> ListedGpus:
    """Run nvidia-smi."""
    try:
        done = subprocess.run(  # noqa: S603  # a constant
            COMMAND, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT, check=False
        )
    except FileNotFoundError:
        return ListedGpus(failure="there is no nvidia-smi")
    except subprocess.TimeoutExpired:
        return ListedGpus(failure=f"nvidia-smi does not answer in {TIME_LIMIT:.0f} s")
    except OSError as error:
        return ListedGpus(failure=f"nvidia-smi cannot be run: {error.strerror}")
    return parse_answer(done.stdout, done.stderr, done.returncode)


def parse_answer(stdout: str, stderr: str, code: int) -> ListedGpus:
    """Parse what nvidia-smi printed for COMMAND; it prints its errors to stdout."""
    rows = [[part.strip() for part in line.split(",")] for line in stdout.splitlines()]
    gpus = [row for row in rows if len(row) == 3 and row[0].isdecimal()]
    if code == 0 and gpus:
        return ListedGpus(tuple(row[1] for row in gpus), gpus[0][2])
    said = " ".join(f"{stdout} {stderr}".split())[:200].rstrip(".")
    return ListedGpus(failure=f"nvidia-smi: {said or f'exit code {code}'}")
