"""Checks of the GPU: its driver against torch's CUDA, kernels for it, free memory against the plan."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repro.core.disk import format_size
from repro.core.workspace import find_c_compiler
from repro.plan.doctor.finding import Finding, FindingState, Subject
from repro.table.requirements import NO_GPU

OLDEST_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""Oldest NVIDIA driver on Linux for every minor version of a CUDA (NVIDIA's CUDA compatibility guide), by major version."""
TRIED_ON = (9, 0)
"""Compute capability of H100 and H200, on which the project was run and which its CUDA image is built for."""
USE_CPU = "set REPRO_DEVICE=cpu to compute on the CPU"


def explain_old_driver(driver: str, cuda: str) -> str:
    """Return why a driver is too old for torch's CUDA, as in 13.0; an empty string if it is not, or if either is unknown."""
    found, major = re.match(r"(\d+)\.?(\d*)", driver), re.match(r"\d+", cuda)
    oldest = OLDEST_DRIVERS.get(int(major[0])) if major else None
    if not found or oldest is None or (int(found[1]), int(found[2] or 0)) >= oldest:
        return ""
    return f"driver {driver} is too old for CUDA {cuda}, which needs {oldest[0]} or newer"


def check_driver(subject: Subject) -> Iterator[Finding]:
    """Compare the NVIDIA driver with torch's CUDA."""
    requested = subject.requested_device
    if requested == "cpu":
        yield Finding("driver", "ok", "not needed: a CPU is requested")
        return
    listed, torch = subject.listed_gpus, subject.torch_facts("torch")
    cuda, driver = torch.get("cuda"), listed.driver
    # The driver's library may be there without nvidia-smi, and the other way round.
    if not listed.names and not subject.visible_gpus:
        what = f"no GPU is visible ({listed.failure})"
        if requested is None:
            yield Finding("driver", "ok", what)
        else:
            yield Finding("driver", "fail", what, NO_GPU.remedy.partition(": ")[2])
        return
    if "version" in torch and cuda is None:
        yield Finding(
            "driver", "fail" if requested else "warn", f"driver {driver or 'unknown'}, but torch {torch['version']} is built for CPUs",
            f"install the CUDA build of torch (requirements/README.md), or {USE_CPU}",
        )  # fmt: skip
        return
    old = explain_old_driver(driver, cuda or "")
    if not old:
        yield Finding(
            "driver", "ok", f"driver {driver or 'unknown, no nvidia-smi'}" + (f" for CUDA {cuda}" if cuda else "")
        )
    elif not subject.torch_facts("gpu")["problem"]:
        # NVIDIA's forward-compatibility libraries make a newer CUDA run on an older driver of a data centre.
        yield Finding(
            "driver", "warn", f"{old}; it computes all the same", "update the driver: such a pair is not tested"
        )
    else:
        yield Finding("driver", "fail", old, f"update the driver, use an image or torch of an older CUDA, or {USE_CPU}")


def check_device(subject: Subject) -> Iterator[Finding]:
    """Report whether the requested GPU is visible, torch has kernels for it, and it computes."""
    listed, visible = subject.listed_gpus.names, subject.environment.get("CUDA_VISIBLE_DEVICES")
    if not subject.computes_on_gpu:
        unasked = subject.requested_device is None
        if unasked and listed:
            what = f"rows compute on the CPU: nvidia-smi lists {', '.join(listed)}, and none is visible to programs"
            yield Finding("device", "warn", what, _explain_hidden(listed, visible))
        elif unasked:
            remedy = "`repro plan ROW --device cpu` says how long that takes"
            yield Finding("device", "warn", "no GPU: rows compute on the CPU", remedy)
        else:
            yield Finding("device", "ok", "rows compute on the CPU")
        return
    torch, gpu = subject.torch_facts("torch"), subject.torch_facts("gpu")
    if "version" in torch and torch["cuda"] is None:
        yield Finding(
            "device", "fail", f"torch {torch['version']} is built for CPUs", f"install its CUDA build, or {USE_CPU}"
        )
        return
    yield judge_device(torch, gpu, listed, visible)


def judge_device(
    torch: Mapping[str, Any], gpu: Mapping[str, Any], listed: Sequence[str], visible: str | None
) -> Finding:
    """Judge a GPU.

    Args:
        torch: Facts of the probe: version and kernels (sm_90, ..., compute_120), or a problem.
        gpu: Facts of the probe: count, number, name and capability, or a problem.
        listed: Names of the machine's GPUs, by nvidia-smi.
        visible: CUDA_VISIBLE_DEVICES; None if it is not set.
    """
    if "name" not in gpu:
        there = f"; nvidia-smi lists {', '.join(listed)}" if listed else ""
        return Finding(
            "device", "fail", f"no GPU can be used: {gpu['problem']}{there}", _explain_hidden(listed, visible)
        )
    capability = tuple(gpu["capability"])
    found = f"cuda:{gpu['number']} is {gpu['name']}, sm_{capability[0]}{capability[1]}, one of {gpu['count']}"
    if not has_kernels(capability, torch["kernels"]):
        found += f"; torch {torch['version']} has kernels for {', '.join(torch['kernels'])}"
        return Finding("device", "fail", found, f"use a build of torch that supports this GPU, or {USE_CPU}")
    if gpu["problem"]:
        remedy = f"end other programs on the GPU, have it reset, or {USE_CPU}"
        return Finding("device", "fail", f"{found}; it does not compute: {gpu['problem']}", remedy)
    if capability != TRIED_ON:
        found += "; the project was run on sm_90 (H100, H200)"
        return Finding("device", "warn", found, "compare its features before long runs: `repro verify BACKBONE`")
    return Finding("device", "ok", found)


def _explain_hidden(listed: Sequence[str], visible: str | None) -> str:
    """Return what makes a GPU visible to this process."""
    if listed and visible is not None:
        return f"CUDA_VISIBLE_DEVICES is '{visible}', which hides GPUs: unset it, or name one of them"
    return f"request a GPU from the scheduler, start the container with --gpus all (docker) or --nv (apptainer), or {USE_CPU}"


def has_kernels(capability: tuple[int, ...], kernels: Sequence[str]) -> bool:
    """Whether a GPU of this compute capability runs any of `kernels`: sm_XY of its major version, or compute_XY to compile."""
    for kernel in kernels:
        kind, _, number = kernel.partition("_")
        digits = re.match(r"\d+", number)
        if not digits:
            continue
        # The last digit is the minor version: sm_120 is 12.0. Letters, as in sm_90a, are of kernels for that version alone.
        built = divmod(int(digits[0]), 10)
        if number != digits[0]:
            fits = built == capability
        else:
            fits = built <= capability and (kind == "compute" or built[0] == capability[0])
        if fits:
            return True
    return False


def check_compiler(subject: Subject) -> Iterator[Finding]:
    """Look for the C compiler without which no network is compiled for a GPU."""
    if not subject.computes_on_gpu:
        return
    found = find_c_compiler()
    if found is None:
        what = "none: networks compute uncompiled on the GPU, SVD in up to twice the time"
        yield Finding("C compiler", "warn", what, "install gcc, or name a compiler in CC")
    else:
        yield Finding("C compiler", "ok", f"{found}, for networks that are compiled for the GPU")


def check_gpu_memory(subject: Subject) -> Iterator[Finding]:
    """Compare the GPU's free memory with what the row's backbone takes."""
    if not subject.computes_on_gpu:
        return
    gpu = subject.torch_facts("gpu")
    if "free" not in gpu:
        return  # check_device has said why
    needs: Mapping[int, float] = {}
    if subject.plan is not None:
        # Every job of a row has one backbone.
        needs = next((job.gpu_gigabytes for job in subject.plan.jobs if job.remaining.windows.most), {})
    yield judge_memory(gpu["free"], gpu["total"], needs)


def judge_memory(free: int, total: int, needs: Mapping[int, float]) -> Finding:
    """Compare free bytes with gigabytes by batch, the default batch first; empty if nothing is known or to be extracted."""
    found = f"{format_size(free)} of {format_size(total)} free"
    if not needs:
        return Finding("GPU memory", "ok", found)
    default, least = next(iter(needs)), min(needs, key=lambda batch: needs[batch])
    found = f"{found}; the row takes {needs[default]:g} GB with --batch {default}"
    in_use = "end other programs on the GPU (nvidia-smi lists them)"
    if free >= needs[default] * 1e9:
        return Finding("GPU memory", "ok", found)
    if free >= needs[least] * 1e9:
        return Finding(
            "GPU memory",
            "warn",
            f"{found}, {needs[least]:g} GB with --batch {least}",
            f"use --batch {least}, or {in_use}",
        )
    # A batch is halved when memory is full, so less than the least that was measured may still do for --batch 1.
    state: FindingState = "warn" if least > 1 else "fail"
    return Finding(
        "GPU memory",
        state,
        found,
        f"{in_use}, use a GPU with more memory" + (", or try --batch 1" if least > 1 else ""),
    )
