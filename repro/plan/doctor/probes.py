"""What is tried in a process of its own, which may crash, hang or take seconds: torch, the GPU, nvidia-smi, decoders, a contended lock.

`python -m repro.plan.doctor.probes NAME ARGUMENT...` prints one JSON object a line, each as soon as it is known, so that a crash
loses only what follows it.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from repro.core import LazyModule
from repro.core.errors import ReproError, state_reason
from repro.core.locks import take_lock
from repro.video.sampling import ReaderName, Sampling

# `repro doctor` imports none of these: that may be what crashes or hangs.
if TYPE_CHECKING:
    import av
    import numpy as np
    import torch

    from repro.backbones.svd import implementations
    from repro.video import readers
else:
    av, np, torch = LazyModule("av"), LazyModule("numpy"), LazyModule("torch")
    implementations = LazyModule("repro.backbones.svd.implementations")
    readers = LazyModule("repro.video.readers")

PROBE_LIMIT = 120.0
"""Seconds that a probe may take: importing torch from a cold network disk, or on a crowded machine, takes tens of them."""
FRAMES = 8
"""Frames of the clips that are encoded and decoded."""
CLIPS = {"h264": ("libx264", "mp4"), "mpeg4": ("mpeg4", "avi")}
"""Codec and container of the data sets' videos, by name: H.264 in MP4, and XviD in AVI, of which UCF101 and HMDB51 are."""

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader")
NVIDIA_SMI_LIMIT = 10.0
"""Seconds for nvidia-smi, which hangs when a GPU has fallen off the bus."""

Facts = dict[str, Any]


class RunningProbe:
    """A running probe."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Any) -> None:
        self._process, self._errors = process, errors
        self._started = time.monotonic()
        self._facts: Facts | None = None
        self.failure = ""
        """Why a fact is missing; known once `facts` has returned."""

    def facts(self) -> Facts:
        """Wait for the probe's end and return what it reported, by name; what is missing is explained by `failure`."""
        if self._facts is None:
            try:
                printed, _ = self._process.communicate(timeout=max(0.1, self._started + PROBE_LIMIT - time.monotonic()))
                self.failure = self._explain_end()
            except subprocess.TimeoutExpired:
                self._process.kill()
                printed, _ = self._process.communicate()
                self.failure = f"no answer in {PROBE_LIMIT:.0f} s"
            self._facts = {}
            for line in printed.splitlines():
                # Libraries may print to stdout as well.
                if line.startswith('{"'):
                    self._facts |= json.loads(line)
            self._errors.close()
        return self._facts

    def _explain_end(self) -> str:
        code = self._process.returncode
        if code == 0:
            return "not tried"
        if code < 0:
            return f"the process died of {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit code {code}"


def start_probe(name: str, *arguments: str) -> RunningProbe:
    """Start a probe in a process of its own."""
    # The package as it is imported here, whatever the working folder of the process.
    package = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A file: a probe that prints more errors than a pipe holds would wait for a reader.
    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed in RunningProbe.facts
    command = [sys.executable, "-m", __name__, name, *arguments]
    process = subprocess.Popen(  # noqa: S603  # this module
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    return RunningProbe(process, errors)


def probe_torch(device: str) -> Iterator[Facts]:
    """Import torch, compute on a GPU if there is one, and import sgm if it is installed.

    Args:
        device: cpu, cuda or cuda:N; empty for the first GPU, if there is one.
    """
    # Before the GPU is touched, which is what may crash.
    yield {"torch": {"version": torch.__version__, "cuda": torch.version.cuda, "kernels": torch.cuda.get_arch_list()}}
    if device != "cpu" and torch.version.cuda is not None:
        yield {"gpu": _try_gpu(device)}
    if find_spec("sgm") is not None:
        yield {"sgm": {"problem": implementations.explain_missing_sgm()}}


def _try_gpu(device: str) -> Facts:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # says why not, which is_available does not
        number = int(device.partition(":")[2] or 0)
        properties = torch.cuda.get_device_properties(number)
        found: Facts = {
            "count": torch.cuda.device_count(),
            "number": number,
            "name": properties.name,
            "capability": [properties.major, properties.minor],
        }
        # Fits into any free memory; each entry of the product is 64, which bfloat16 has exactly.
        ones = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
        # Kernels that were not built for this GPU, and a GPU that another process owns, show only when something is computed.
        computed = float((ones @ ones).sum())
        free, total = torch.cuda.mem_get_info(number)
    except Exception as error:
        return {"problem": state_reason(error, 300)}
    return found | {"free": free, "total": total, "problem": "" if computed == 64**3 else f"64^3 is {computed:g} on it"}


def probe_video() -> Iterator[Facts]:
    """Encode a small clip in each codec of the data sets, and read it with each reader."""
    # decord has wheels for this platform alone.
    has_decord = sys.platform == "linux" and platform.machine() == "x86_64"
    names: tuple[ReaderName, ...] = ("pyav", "decord") if has_decord else ("pyav",)
    with tempfile.TemporaryDirectory() as folder:
        for codec in CLIPS:
            path = _encode_clip(Path(folder), codec)
            for reader in names:
                try:
                    read = sum(map(len, readers.read_clip(path, Sampling(1, 10.0, FRAMES, reader))))
                    problem = "" if read == FRAMES else f"{read} of {FRAMES} frames"
                except Exception as error:
                    problem = f"{type(error).__name__}: {state_reason(error)}"
                yield {f"{reader} {codec}": {"problem": problem}}


def _encode_clip(folder: Path, codec: str) -> Path:
    encoder, suffix = CLIPS[codec]
    path = folder / f"{codec}.{suffix}"
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(encoder, rate=25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            picture = np.full((48, 64, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def probe_lock(path: str) -> Iterator[Facts]:
    """Try to take the lock of a file, which another process holds or has freed."""
    with Path(path).open("a") as file:
        try:
            yield {"lock": {"taken": take_lock(file.fileno(), Path(path)), "problem": ""}}
        except ReproError as error:
            yield {"lock": {"taken": False, "problem": str(error)}}


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
            NVIDIA_SMI, capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_LIMIT, check=False
        )
    except FileNotFoundError:
        return ListedGpus(failure="there is no nvidia-smi")
    except subprocess.TimeoutExpired:
        return ListedGpus(failure=f"nvidia-smi does not answer in {NVIDIA_SMI_LIMIT:.0f} s")
    except OSError as error:
        return ListedGpus(failure=f"nvidia-smi cannot be run: {error.strerror}")
    return parse_answer(done.stdout, done.stderr, done.returncode)


def parse_answer(stdout: str, stderr: str, code: int) -> ListedGpus:
    """Parse what nvidia-smi printed for NVIDIA_SMI; it prints its errors to stdout."""
    rows = [[part.strip() for part in line.split(",")] for line in stdout.splitlines()]
    gpus = [row for row in rows if len(row) == 3 and row[0].isdecimal()]
    if code == 0 and gpus:
        return ListedGpus(tuple(row[1] for row in gpus), gpus[0][2])
    said = " ".join(f"{stdout} {stderr}".split())[:200].rstrip(".")
    return ListedGpus(failure=f"nvidia-smi: {said or f'exit code {code}'}")


PROBES: dict[str, Callable[..., Iterator[Facts]]] = {"torch": probe_torch, "video": probe_video, "lock": probe_lock}


def print_facts(name: str, *arguments: str) -> None:
    for facts in PROBES[name](*arguments):
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    print_facts(*sys.argv[1:])
