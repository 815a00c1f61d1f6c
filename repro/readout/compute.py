"""Where and how exactly a readout computes: device, precision, determinism and threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro.core.errors import UsageError
from repro.readout.recipe import TrainingPrecision


@dataclass(frozen=True, slots=True)
class Compute:
    """Device, precision, determinism, threads and number of simultaneous trainings."""

    device: str = "cpu"
    precision: TrainingPrecision = "fp32"
    deterministic: bool = False
    """Use only operations that repeat bit for bit. On a CPU all do if the thread count is equal; on a GPU they are slower."""
    threads: int | None = None
    """CPU threads of PyTorch; None keeps the current number."""
    together: int | None = None
    """Trainings computed as one program; None: as many as a GPU's memory holds, one on a CPU. Changes results by rounding."""

    def require_available(self) -> "Compute":
        """Return self if this machine can compute so.

        Raises:
            UsageError: the device or the precision is not available on this machine.
        """
        # Checked first: a training would fail at its first product, after minutes of loading features.
        try:
            kind = torch.device(self.device).type
        except RuntimeError as error:
            raise UsageError(f"device '{self.device}': expected cpu or cuda") from error
        if kind not in ("cpu", "cuda"):
            raise UsageError(f"device '{self.device}': expected cpu or cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"device '{self.device}': PyTorch finds no GPU here: use cpu")
        if kind == "cpu" and self.precision == "tf32":
            raise UsageError("precision tf32 is a GPU's: a CPU takes fp32 or bf16")
        return self

    def as_stored(self) -> dict[str, str | bool]:
        """Return what training state stores of this. A saved training resumes only if it is equal.

        The thread count is not part of it: a different number gives a warning, not an error.
        """
        return {"device": self.device, "precision": self.precision, "deterministic": self.deterministic}

    def autocast(self) -> torch.autocast:
        """Context in which matrix products run in bf16 if `precision` says so."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def apply_settings(self) -> Iterator[torch.device]:
        """Apply these settings to PyTorch within the block and restore the caller's afterwards, random state included."""
        device = torch.device(self.device)
        precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
        # The caller's settings, restored at the end: they are global, and a test or a notebook may continue with other work.
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        if self.deterministic:
            # cuBLAS reads this when it is first used: with these workspaces its products repeat bit for bit
            # (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Fused attention on a GPU sums gradients in varying order; the MATH kernel does not.
        kernels = sdpa_kernel(SDPBackend.MATH) if self.deterministic and device.type == "cuda" else nullcontext()
        try:
            # "high" rounds the factors of fp32 products to TF32; "highest" does not.
            torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
            # Never less deterministic than the caller asked for.
            torch.use_deterministic_algorithms(self.deterministic or deterministic, warn_only=warn_only)
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            # fork_rng restores the random state afterwards. It is given the one GPU in use, or it would save the state of
            # every GPU.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), kernels:
                yield device
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.set_num_threads(threads)

    @property
    def device_name(self) -> str:
        """The product name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name(self.device) if torch.device(self.device).type == "cuda" else "cpu"


ON_CPU = Compute()
