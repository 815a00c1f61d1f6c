"""Lets torchvision be imported if it was built for CUDA and torch for the CPU.

diffusers, open_clip and transformers import torchvision if it is installed. Modules that import one of them import this one
first, because the operators have to be declared by then.
"""

import sys
from importlib import import_module
from importlib.util import find_spec

import torch

_DECLARED: list[torch.library.Library] = []
"""Keeps the declarations alive: they last as long as these objects."""


def declare_torchvision_operators() -> None:
    """Declare the operators of torchvision that torch does not know.

    Alongside a CPU torch the operators of a CUDA torchvision do not load, and its import ends at the first of them. None of
    the networks calls any, so declaring them is enough. Does nothing if torchvision is not installed, or loads.
    """
    if _DECLARED or find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # Forget the half-imported modules, so that the next import starts again.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _DECLARED.append(library)


# At import, as the imports that follow it in other modules depend on it.
declare_torchvision_operators()
