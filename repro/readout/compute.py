"""Where and how exactly a readout computes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro.core.errors import UsageError
from repro.core.workspace import repeatable_libraries
from repro.table.rows import Precision


@dataclass(frozen=True, slots=True)
class Compute:
    device: str = "cpu"
    precision: Precision = "fp32"
    deterministic: bool = False
    """Only operations that repeat bit for bit. A CPU's do at equal thread counts; on a GPU this takes slower ones."""

    def checked(self) -> "Compute":
        """Itself, where it can be had here.

        Raises:
            UsageError: no such device or precision here.
        """
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

    def autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def settings(self) -> Iterator[torch.device]:
        """Compute in the block as asked, with random state of its own; what the caller had is restored."""
        device = torch.device(self.device)
        before = torch.get_float32_matmul_precision()
        strict, lenient = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if self.deterministic:
            repeatable_libraries()
        # Fused attention sums its gradients in any order on a GPU.
        kernels = sdpa_kernel(SDPBackend.MATH) if self.deterministic and device.type == "cuda" else nullcontext()
        try:
            torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
            torch.use_deterministic_algorithms(self.deterministic or strict, warn_only=lenient)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), kernels:
                yield device
        finally:
            torch.set_float32_matmul_precision(before)
            torch.use_deterministic_algorithms(strict, warn_only=lenient)

    @property
    def name(self) -> str:
        """The device's own name."""
        return torch.cuda.get_device_name(self.device) if torch.device(self.device).type == "cuda" else "cpu"


ON_CPU = Compute()
