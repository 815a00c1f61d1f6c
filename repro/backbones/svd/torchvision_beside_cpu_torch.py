"""Let diffusers, transformers and open_clip be imported where torchvision was built for CUDA and torch for the CPU.

All three import torchvision where it is installed. Its published builds are CUDA's: beside a CPU torch their operators do
not load, and the import ends at the first of them. No network here calls any, so that declaring them is enough.
"""

import importlib.util
import sys

import torch

_DECLARED: list[torch.library.Library] = []
"""Declarations last as long as these do."""


def declare() -> None:
    """Do nothing where torchvision is absent, or loads."""
    if _DECLARED or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _DECLARED.append(library)
