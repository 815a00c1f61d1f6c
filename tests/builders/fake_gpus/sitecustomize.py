"""Read by every Python that a workflow's job starts: devices that SLURM hands out as GPUs, and extractions that can be held.

`--device cuda` becomes cpu, and TEST_CONTROL/devices gets the GPU that SLURM gave the job. A part of an extraction that has
stored its first clip writes `reached-PART` (its process and SLURM job) and waits as long as there is a file `hold-PART`.
"""

import os
import signal
import sys
import time
from pathlib import Path


def _hold_after_first_clip(control: Path, part: str) -> None:
    # Extractions import it anyway.
    from repro.features.store import FeatureStore

    write_clip = FeatureStore.write_clip

    def write_and_wait(store, clip_id, entry):  # type: ignore[no-untyped-def]
        write_clip(store, clip_id, entry)
        reached = control / f"reached-{part}"
        reached.with_suffix(".new").write_text(f"{os.getpid()} {os.environ.get('SLURM_JOB_ID', '')}")
        reached.with_suffix(".new").rename(reached)
        # Clips are written by a thread: a process that was asked to end waits for it, and asks no signal any more.
        while (control / f"hold-{part}").exists() and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            time.sleep(0.05)

    FeatureStore.write_clip = write_and_wait  # type: ignore[method-assign]


if os.environ.get("TEST_CONTROL") and Path(sys.argv[0]).name == "repro":
    control = Path(os.environ["TEST_CONTROL"])
    # Not in the coordinator, whose plan counts GPUs.
    if (
        "SLURM_JOB_ID" in os.environ
        and "--device" in sys.argv
        and sys.argv[at := sys.argv.index("--device") + 1] == "cuda"
    ):
        with (control / "devices").open("a") as devices:
            devices.write(f"{sys.argv[1]} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        sys.argv[at] = "cpu"
    if "--shard" in sys.argv:
        _hold_after_first_clip(control, sys.argv[sys.argv.index("--shard") + 1].partition("/")[0])
