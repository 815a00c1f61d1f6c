"""What makes a program wait for a GPU, listed on a CPU."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from repro.backbones.device import upload


class Waits(TorchFunctionMode):
    """Lists what waits for a GPU: numbers that are read, and copies other than `upload`'s, which it counts."""

    READS = frozenset({"cuda", "cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__float__", "__int__"})

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
        """Watch the `upload` that each of `modules` imports."""
        super().__init__()
        self.found: list[str] = []
        self.uploads = 0
        for module in modules:
            monkeypatch.setattr(f"repro.{module}.upload", self._upload)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # To another type, nothing is copied between devices; without blocking, nothing waits.
        to_device = name == "to" and any(isinstance(one, torch.device | str) for one in (*args, *kwargs.values()))
        if name in self.READS or (to_device and not kwargs.get("non_blocking")):
            self.found.append(name)
        return func(*args, **kwargs)

    def _upload(self, values: Any, device: torch.device) -> torch.Tensor:
        self.uploads += 1
        with torch._C.DisableTorchFunction():
            return upload(values, device)
