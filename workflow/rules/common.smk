# What rules look up: the steps of `repro plan` with their commands and needs (repro/plan/steps.py).
import json
import shlex
import subprocess
from pathlib import Path

from snakemake.exceptions import WorkflowError


def plan_rows():
    """Return the steps of the rows of the config. Jobs on other machines read what the coordinator has planned."""
    path = Path("plan.json")
    if workflow.is_main_process:
        words = ["repro", "plan", *config["rows"], "--seeds", config["seeds"], "--device", config["device"]]
        words += ["--protocol", config["protocol"]] if config["protocol"] else []
        words += [word for name in config["precision"] for word in ("--precision", name)]
        try:
            made = subprocess.run(
                [*words, "--workspace", config["workspace"], "--json"], capture_output=True, text=True
            )
        except FileNotFoundError:
            raise WorkflowError("repro is not on PATH: activate its environment, or use `repro submit`")
        if made.returncode:
            raise WorkflowError(made.stderr.strip())
        # Renamed, because jobs of an earlier coordinator may be reading it.
        path.with_suffix(".new").write_text(made.stdout)
        path.with_suffix(".new").replace(path)
    return {(step["rule"], step["name"]): step for step in json.loads(path.read_text())["steps"]}


STEPS = plan_rows()


def names_of(rule):
    return [name for kind, name in STEPS if kind == rule]


def command_of(rule, *options):
    """Return a function of the wildcards: the step's command, quoted for a shell, with options."""

    def quote_command(wildcards):
        words = STEPS[rule, getattr(wildcards, "name", "all")]["command"]
        return shlex.join(["repro", *words, "--workspace", config["workspace"], *options])

    return quote_command


def need_of(rule, key):
    """Return a function of the wildcards: gpus or cpus of a step."""
    return lambda wildcards: STEPS[rule, getattr(wildcards, "name", "all")][key]


def memory_of(rule):
    """Return a function of wildcards and attempt: MB of a step, more when it is tried again."""
    return lambda wildcards, attempt: int(STEPS[rule, getattr(wildcards, "name", "all")]["memory_gb"] * 1000 * attempt)


def minutes_of(rule, parts=lambda name: 1, unknown=240, factor=lambda name: 1):
    """Return a function of wildcards and attempt: the planned time of a part with room for a slower device and for starting."""

    def minutes(wildcards, attempt):
        name = getattr(wildcards, "name", "all")
        hours = STEPS[rule, name]["hours"]
        planned = unknown if hours is None else hours * 60 / parts(name) * factor(name)
        return int(20 + 1.5 * planned) * attempt

    return minutes


def is_of_grid(name):
    return any(name in STEPS["grid", row]["after"] for row in config["grid"])


def parts_of(name):
    """Return in how many parts an extraction is divided: at most its clips."""
    return 1 if config["devices"] else min(config["shards"], max(1, STEPS["extract", name]["clips"]))


def extract_command(wildcards):
    words = ["repro", *STEPS["extract", wildcards.name]["command"], "--workspace", config["workspace"], "--json"]
    if is_of_grid(wildcards.name):
        words += ["--grid", "--stored-as", "fp32"]
    return shlex.join(words + ["--allow-damaged"] * config["allow_damaged"])


def before_extraction(wildcards):
    dataset, *earlier = STEPS["extract", wildcards.name]["after"]
    return [f"data/{dataset}.audit.json", *(f"features/{name}.json" for name in earlier)]


def features_of(rule):
    """Return a function of the wildcards: the features that a readout or grid reads."""
    return lambda wildcards: [f"features/{name}.json" for name in STEPS[rule, wildcards.name]["after"]]
