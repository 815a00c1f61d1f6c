"""What Snakemake and SLURM add to the commands of a workflow: `python benchmarks/workflow.py [--profile slurm]`.

A row of 16 rendered clips, one job at a time, so that the workflow's time is the sum of its jobs'. Every Python notes when it started
and ended, and its processor's time without that of the processes it starts. The time between a command's end and the next one's
start is what a job costs in addition to its command: that Python's own end, the wait until the job's end is seen, SLURM's scheduling, and
Snakemake where jobs start it. Over SLURM, the log of its controller tells how much of that is the workflow's.
Needs snakemake on PATH; for slurm what tests/builders/slurm_cluster.py needs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from builders.slurm_cluster import start_cluster  # noqa: E402

NOTE = """\
import atexit, json, os, resource, sys, time
def note(started=time.time()):
    cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    line = {"words": sys.argv[:2], "started": started, "ended": time.time(), "cpu": cpu, "job": os.environ.get("SLURM_JOB_ID")}
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(line) + chr(10))
if any(os.path.basename(word) in ("repro", "snakemake") for word in sys.orig_argv[:3]):
    atexit.register(note)
"""
COMMANDS = ("fetch", "data", "extract", "readout", "check", "report")


def repro(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "repro", *map(str, words)]


def run(profile: str, folder: Path) -> None:
    table = folder / "clips" / "labels.csv"
    subprocess.run([sys.executable, ROOT / "examples" / "own-videos" / "render_clips.py", table.parent], check=True)
    subprocess.run(repro("data", "new", table, "--backbone", "mean_colour"), check=True, stdout=subprocess.DEVNULL)
    row = table.with_name("labels_row.yaml")
    raw = yaml.safe_load(row.read_text())
    row.write_text(yaml.safe_dump(raw | {"readout": raw["readout"] | {"epochs": 1, "layers": 1}}))
    place = ["--workspace", str(folder / "workspace")]
    audit = repro("data", "audit", table.with_name("labels.yaml"), *place)
    subprocess.run(audit, check=True, stdout=subprocess.DEVNULL)
    (folder / "note").mkdir()
    (folder / "note" / "sitecustomize.py").write_text(NOTE)
    notes = folder / "notes.jsonl"
    with start_cluster(folder / "slurm") if profile == "slurm" else nullcontext() as cluster:
        environment = dict(os.environ)
        if cluster is not None:
            environment |= {name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")}
        environment |= {"PYTHONPATH": f"{folder / 'note'}:{ROOT}", "NOTES": str(notes)}
        words = ["submit", row, "--profile", profile, "--device", "cpu", "--shards", "4", "--seeds", "3", "--jobs", "1"]
        started = time.time()
        subprocess.run(repro(*words, *place), check=True, env=environment)
        seconds = time.time() - started
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    jobs = [one for one in found if Path(one["words"][0]).name == "repro" and one["words"][1] in COMMANDS]
    others = [one for one in found if one not in jobs]
    gaps = [later["started"] - one["ended"] for one, later in pairwise(jobs)]
    commands = [one["ended"] - one["started"] for one in jobs]
    print(f"{profile}: {len(jobs)} jobs in {seconds:.1f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"a command: {mean(commands):.2f} s, {mean(one['cpu'] for one in jobs):.2f} s of the processor")
    print(
        f"from a command's end to the next one's start: median {median(gaps):.2f} s, mean {mean(gaps):.2f} s, longest {max(gaps):.2f} s"
    )
    print(
        f"before the first command {jobs[0]['started'] - started:.1f} s, after the last {started + seconds - jobs[-1]['ended']:.1f} s"
    )
    if profile == "slurm":
        log = (folder / "slurm" / "slurmctld.log").read_text()
        submitted, ended = (
            [
                datetime.fromisoformat(moment)
                for moment in re.findall(rf"^\[(\S+)\] {event}: JobId=\d+ ", log, re.MULTILINE)
            ]
            for event in ("_slurm_rpc_submit_batch_job", r"_job_complete(?=.* done)")
        )
        waits = [(later - one).total_seconds() for one, later in zip(ended, submitted[1:], strict=False)]
        print(
            f"of these, from a job's end to the next one's submission: median {median(waits):.2f} s, mean {mean(waits):.2f} s"
        )
    inside = sum(one["cpu"] for one in others if one["job"]) / len(jobs)
    outside = sum(one["cpu"] for one in others if not one["job"])
    print(
        f"Python next to the commands: {inside:.2f} s of the processor a job, and {outside:.1f} s for the coordinator"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=["local", "slurm"], default="local")
    with tempfile.TemporaryDirectory() as place:
        run(parser.parse_args().profile, Path(place))
