"""Run all checks. A check that fails in itself is a finding like others, and stops none of them."""

from collections.abc import Callable, Iterator

from repro.core.errors import ReproError, state_reason
from repro.plan.doctor import folders, gpu, needs, network, software
from repro.plan.doctor.finding import Finding, Subject

Check = Callable[[Subject], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "python": software.check_python,
    "lock": software.check_lock,
    "container": folders.check_mounts,
    "workspace": folders.check_workspace,
    "locks": folders.check_locks,
    "clock": folders.check_clock,
    "disk": folders.check_disk,
    "hub": network.check_hub,
    "proxy": network.check_proxies,
    "caches": network.check_caches,
    "data": needs.check_data,
    "checkpoints": needs.check_checkpoints,
    "missing": needs.check_missing,
    # Last, because they wait for a process that imports torch.
    "decoders": software.check_decoders,
    "torch": software.check_torch,
    "svd": software.check_implementation,
    "driver": gpu.check_driver,
    "device": gpu.check_device,
    "C compiler": gpu.check_compiler,
    "GPU memory": gpu.check_gpu_memory,
}
"""The checks by name, in the order in which they run and are printed."""


def examine(subject: Subject) -> Iterator[Finding]:
    """Yield what every check finds, as soon as it is found."""
    seen = set()
    for name, check in CHECKS.items():
        for finding in _run_check(name, check, subject):
            # One cause, such as a wrong REPRO_DEVICE, ends several checks.
            if finding.state == "ok" or (finding.what, finding.remedy) not in seen:
                yield finding
            seen.add((finding.what, finding.remedy))


def _run_check(name: str, check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except ReproError as error:
        # Messages of this project end with what to do.
        what, _, remedy = str(error).rpartition(": ")
        yield Finding(name, "fail", what or remedy, remedy if what else "")
    except Exception as error:
        what = f"not known: {type(error).__name__}: {state_reason(error)}"
        yield Finding(name, "warn", what, "this check failed in itself: please report it")
