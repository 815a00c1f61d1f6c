"""Networks that torch.compile makes into programs of fewer, larger kernels, on GPUs.

What is compiled computes the same in the same precision, and rounds at other places: a compiled network is as far from fp32 as the
plain one (benchmarks/README.md). Every shape is compiled by itself, so batches are filled up to one size (fill_batch).
"""

from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from repro.backbones.config import UNCOMPILED, Precision
from repro.backbones.extractor import Execution
from repro.core.errors import state_reason
from repro.core.workspace import find_c_compiler

P = ParamSpec("P")
T = TypeVar("T")

FROM_CLIPS = 100
"""Clips from which an extraction compiles by default: compiling takes one to two minutes, and saves up to a second a window."""
_PROGRAMS = 64
"""Limit on the programs that torch.compile makes of one function, after which it would compile no more: one for each set of shapes,
weights and settings."""

_REMEDY = "if files of its cache are damaged, as after a power cut, delete WORKSPACE/cache"


class Compiled(Generic[P, T]):
    """A function that is compiled when it is first called with tensors of some shapes.

    One that cannot be compiled is called as it is from then on, which `say` reports in a line.

    Args:
        backend: torch.compile's.
        options: of the backend inductor.
    """

    def __init__(
        self,
        function: Callable[P, T],
        say: Callable[[str], None] = lambda line: None,
        backend: str | Callable[..., Any] = "inductor",
        options: dict[str, str | int | bool | Callable[..., Any]] | None = None,
    ) -> None:
        self.function, self.say = function, say
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _PROGRAMS)
        limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 8 * _PROGRAMS)
        self.program: Callable[P, T] | None = torch.compile(
            function, dynamic=False, backend=backend, options=options if backend == "inductor" else None
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.program is not None:
            try:
                return self.program(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:
                # torch ends with a paragraph of advice to its developers.
                reason = state_reason(str(error).partition("\n\n")[0], 120)
                self.say(f"torch.compile fails ({reason}): computed without it, which is slower; {_REMEDY}")
            # Not within `except`: there the traceback keeps the tensors of the failed attempt.
            self.program = None
        return self.function(*args, **kwargs)


def describe_compiled(programs: Collection[Compiled[..., Any]]) -> str:
    """Return the end of an extractor's `batch`, by which the record of features says that they were computed compiled.

    Empty without programs or if all have failed, else ", compiled", or ", compiled in part" if some have.
    """
    working = sum(one.program is not None for one in programs)
    return "" if not working else ", compiled" if working == len(programs) else ", compiled in part"


def is_compiled(batch: str) -> bool:
    """Whether a recorded `batch` says that networks were compiled, at least in part."""
    return "compiled" in batch


def choose_compilation(execution: Execution, precision: Precision) -> bool:
    """Return whether to compile networks; says in a line why this device cannot."""
    # fp32 and tf32 are what others are compared with, and products take nearly all of their time. Besides, torch 2.13 refuses to say
    # whether matrix products are in TF32 where fp32_products sets it, which torch.compile may ask.
    if not execution.compile or precision in UNCOMPILED:
        return False
    why = explain_no_compilation(execution.device)
    # Nothing else is seen of the first window until then.
    execution.say(
        f"{why}: they compute uncompiled{', which is slower' * (execution.device != 'cpu')}"
        if why
        else "the networks are compiled with the first window: one to two minutes, less if the workspace's cache has them"
    )
    return not why


def explain_no_compilation(device: torch.device | str) -> str:
    """Return in one line why networks cannot be compiled for `device`; empty if they can."""
    if torch.device(device).type != "cuda":
        return "networks are not compiled for a CPU"
    if find_c_compiler() is None:
        return "networks cannot be compiled without a C compiler: gcc and clang are not installed, and CC names none"
    return _explain_failed_trial(str(device))


@cache
def _explain_failed_trial(device: str) -> str:
    """Compile and compute a small function; return in one line why that failed, empty if it did not."""
    program: Callable[[Tensor], Any] = torch.compile(lambda values: (2 * values).sum(), dynamic=False)
    try:
        with torch.inference_mode():
            program(torch.ones(64, device=device))
            torch.cuda.synchronize(device)
    except Exception as error:  # torch.compile passes on whatever its parts raise
        return f"networks cannot be compiled here, torch.compile fails ({type(error).__name__}: {state_reason(error, 120)}; {_REMEDY})"
    return ""


def fill_batch(values: Tensor, size: int) -> Tensor:
    """Repeat the last item of `values` until there are `size`; what is computed of the repeated ones is dropped by the caller."""
    if len(values) >= size:
        return values
    return torch.cat([values, values[-1:].expand(size - len(values), *values.shape[1:])])
