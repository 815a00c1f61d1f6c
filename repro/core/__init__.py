"""Files, configs, hashes and messages: what every package uses. Knows nothing of video or models."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"
"""The program's version. Defined here because every layer writes it into its files, and `repro` itself names modules of all layers."""


class LazyModule:
    """A module that is imported when one of its names is first used.

    For modules that take long to import and that not every command uses. Type checkers see a plain import in the other branch of
    `if TYPE_CHECKING`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
