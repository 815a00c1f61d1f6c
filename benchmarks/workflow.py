"""What Snakemake and SLURM add to the commands of a workflow: `python benchmarks/workflow.py [--profile slurm]`.

A row of 16 rendered clips, one job at a time, so that the workflow's time is the sum of its jobs'. Every Python that a job starts
notes when it began and ended, and its processor's time. What remains of the workflow's time is added by the workflow: Snakemake's start
on both sides, SLURM's scheduling, and the wait until a job's end is seen. Needs snakemake on PATH; for slurm what
tests/builders/slurm_cluster.py needs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from builders.slurm_cluster import start_cluster  # noqa: E402

NOTE = """\
import atexit, json, os, resource, sys, time
if os.path.basename(sys.argv[0]) in ("repro", "snakemake", "__main__.py") or "snakemake" in sys.argv:
    def note(began=time.time()):
        spent = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        line = {"words": sys.argv[:3], "began": began, "ended": time.time(), "cpu": sum(spent), "job": os.environ.get("SLURM_JOB_ID")}
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(json.dumps(line) + chr(10))
    atexit.register(note)
"""
VERBS = ("fetch", "data", "extract", "readout", "check", "report")


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
        before, began = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), time.time()
        subprocess.run(repro(*words, *place), check=True, env=environment)
        seconds = time.time() - began
        cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    jobs = [one for one in found if Path(one["words"][0]).name == "repro" and one["words"][1] in VERBS]
    own = sum(one["ended"] - one["began"] for one in jobs)
    # In SLURM's jobs, Snakemake is no child of the coordinator: it notes its own time, and that of the command it waited for.
    cpu += sum(one["cpu"] for one in found if one["job"] and one not in jobs) - sum(one["cpu"] for one in jobs)
    gaps = [later["began"] - one["ended"] for one, later in pairwise(jobs)]
    print(f"{profile}: {len(jobs)} jobs, {seconds:.1f} s, of which the commands {own:.1f} s")
    print(
        f"between a command's end and the next one's begin: {sum(gaps) / len(gaps):.2f} s (longest {max(gaps):.2f} s)"
    )
    print(f"added a job: {(seconds - own) / len(jobs):.2f} s, {cpu / len(jobs):.2f} s of the processor")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=["local", "slurm"], default="local")
    with tempfile.TemporaryDirectory() as place:
        run(parser.parse_args().profile, Path(place))
