"""Peak memory of `repro extract` on one long clip of 4K pictures.

    python benchmarks/long_clip.py --folder /tmp/long_clip [--minutes 10] [--codec libx264] [--reader pyav]

The clip is written once: flat pictures whose colour changes with every frame, with B-frames, so that frames are stored out of
order. Features are of `mean_colour`, which has no network: what is measured is decoding, handing on and storing. The clip is
read completely: the cap of 180 s, under which a tenth of the work would be done, is raised to its length.

Memory is the proportional set size (PSS) of the command and its decoding processes together, sampled five times a second: pages
that processes share count once. In addition, the same for a clip of one second of 64x48 pixels, which is what Python and the libraries
take.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = (3840, 2160)
RATE, GROUP = 25, 10
"""Frames a second, and seconds of a group of pictures."""
INTERVAL = 0.2
"""Seconds between two samples of memory; each walks through the page tables."""


def write_flat_clip(path: Path, seconds: int, codec: str, size: tuple[int, int] = SIZE) -> None:
    """Write flat pictures: a group of pictures encoded once and repeated. A partial file never has the clip's name."""
    partial = path.with_suffix(".partial.mp4")
    group = min(GROUP, seconds) * RATE
    with av.open(str(partial), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"preset": "ultrafast", "bf": "2", "g": str(group)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        packets = []
        for number in range(group):
            grey = np.full((size[1] * 3 // 2, size[0]), 128, np.uint8)
            grey[: size[1]] = 16 + number % 200
            frame = av.VideoFrame.from_ndarray(grey, "yuv420p")
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode()
        stored = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.time_base) for packet in packets]
        for shift in range(0, seconds * RATE, group):
            for data, pts, dts, is_key, base in stored:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.time_base = pts + shift, dts + shift, base
                packet.is_keyframe, packet.stream = is_key, stream
                container.mux(packet)
    partial.replace(path)


def read_tree_memory(root: int) -> int:
    """Return the proportional set size, in bytes, of a process and all its descendants."""
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        # Not by the parents of all processes: on a busy machine that took as long as the decoding.
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(OSError):  # the thread has just ended
                waiting += map(int, children.read_text().split())
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def watch_memory(process: subprocess.Popen[Any]) -> int:
    """Wait for a process to end; returns the most memory that it and its descendants had, in bytes."""
    if not Path("/proc/thread-self/children").exists():
        raise SystemExit("the kernel does not list the children of a process (CONFIG_PROC_CHILDREN)")
    peak = 0
    while process.poll() is None:
        peak = max(peak, read_tree_memory(process.pid))
        time.sleep(INTERVAL)
    return peak


def measure_extraction(clip: Path, max_seconds: int, reader: str) -> dict[str, float]:
    """Extract the clip into a new workspace; returns peak memory and wall time."""
    with tempfile.TemporaryDirectory(dir=clip.parent) as workspace:
        command = [sys.executable, "-m", "repro", "extract", str(clip), "--backbone", "mean_colour", "--device", "cpu"]
        command += ["--set", f"frames.max_seconds={max_seconds}", "--workspace", workspace, "--workers", "1"]
        command += ["--set", f"frames.reader={reader}"]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = watch_memory(process)
        if process.returncode:
            raise SystemExit(f"extraction failed with exit code {process.returncode}")
    return {"GB": peak / 1e9, "s": time.monotonic() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--codec", default="libx264", help="an encoder of FFmpeg's, such as libx264 or libx265")
    parser.add_argument("--reader", choices=("pyav", "decord"), default="pyav")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for size, seconds in (((64, 48), 1), (SIZE, 60 * options.minutes)):
        clip = options.folder / f"{options.codec}_{size[0]}_{seconds}.mp4"
        if not clip.exists():
            write_flat_clip(clip, seconds, options.codec, size)
        figures.append(measure_extraction(clip, seconds, options.reader))
        print(clip.name, json.dumps(figures[-1]), flush=True)
    base, peak = (one["GB"] for one in figures)
    print(f"{options.minutes} minutes of 4K take {peak:.2f} GB, {peak - base:.2f} GB more than a small clip")


if __name__ == "__main__":
    main()
