"""What a family of backbones implements: one config class, and how its networks are opened, verified and prepared.

Modules that define a family import no torch, which takes seconds: `repro list` reads their configs. They name the modules
that load networks as LazyModule (repro.core). repro/backbones/registry.py finds the families.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from repro.backbones.config import BackboneConfig, Precision
from repro.backbones.extractor import Execution, Extractor, Requests
from repro.core.errors import UsageError

ConfigT = TypeVar("ConfigT", bound=BackboneConfig)


@dataclass(frozen=True, slots=True)
class Deviation:
    """Deviation of one tensor from its golden values."""

    file: str
    tensor: str
    relative_l2: float
    """Norm of the difference over the golden tensor's norm; infinite if the computed one is not finite."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one way of computing is from another, over all compared cells."""

    what: str
    against: str
    worst: float
    """Relative L2 of the cell that is furthest off."""
    cell: str
    seconds: float
    """Time of one window, measured once without warm-up: no benchmark."""
    expected: float | None
    """Upper bound on `worst`; None if they need not agree."""
    precision: Precision | None = None
    """The precision that is compared with fp32; None for other comparisons."""
    usual: float | None = None
    """Relative L2 at the cell that rows read; None if it is not among the compared cells."""
    fp32_seconds: float | None = None
    """Time of the same window in fp32, if a precision is compared."""


@dataclass(frozen=True, slots=True)
class Note:
    """A remark to print with the comparisons."""

    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A comparison that this machine does not allow."""

    what: str
    why: str


class Family(ABC, Generic[ConfigT]):
    """A kind of backbone. Only `config_class` and `open_extractors` are required."""

    config_class: type[ConfigT]
    """Reads the configs whose `family` is this one."""
    verifiable: ClassVar[bool] = False
    """Whether `repro verify` works: verify_against_golden and compare_ways are implemented."""
    weights_depend_on: ClassVar[frozenset[str]] = frozenset({"family"})
    """Config keys that, with the seed, determine random weights."""

    @abstractmethod
    def open_extractors(self, requests: Requests[ConfigT], execution: Execution) -> Sequence[Extractor]:
        """Load the networks that compute the requested cells; one extractor may compute several backbones.

        Raises:
            UsageError: a cell does not exist.
            MissingError: a checkpoint is not what its config describes, or does not fit into memory.
        """

    def sharing_key(self, config: ConfigT) -> str:
        """Return a key that is equal for backbones whose cells one extractor computes together, given the same checkpoint."""
        return config.name

    def resolve_implementation(self, config: ConfigT) -> str | None:
        """Whose modules compute on this machine, if there is a choice.

        Raises:
            MissingError: the implementation that the config asks for is not installed.
        """
        return None

    def likely_implementation(self, config: ConfigT) -> str | None:
        """The same without importing anything: an installed package is assumed to work."""
        return None

    def verify_against_golden(
        self, config: ConfigT, checkpoint: Path, folder: Path, execution: Execution
    ) -> Iterator[Deviation | Note]:
        """`repro verify --golden`: yield how far each golden tensor of `folder` is from the computed one."""
        raise UsageError(f"backbone {config.name}: nothing to compare: its family has no golden values")

    def compare_ways(
        self, config: ConfigT, checkpoint: Path, execution: Execution, limit: float, video: Path | None = None
    ) -> Iterator[Comparison | Skipped | Note]:
        """`repro verify`: yield how far different ways of computing the same features are from each other.

        Args:
            config: The backbone.
            checkpoint: Its weights.
            execution: Where to compute.
            limit: Bound on the relative L2 of ways that must agree.
            video: A video whose first frames are the pictures [default: a rendered clip].

        Raises:
            VideoError: the video cannot be decoded.
        """
        raise UsageError(f"backbone {config.name}: nothing to compare: its family has one way of computing")

    def cut_encoder(self, config: ConfigT, original: Path, target: Path) -> str:
        """Write only the encoder of the publisher's file `original` to `target`. Returns what was kept, for messages."""
        raise UsageError(f"backbone {config.name}: its family cannot cut an encoder out of {original.name}")

    def write_random_weights(self, config: ConfigT, path: Path, seed: int) -> None:
        """Write weights generated from `seed`, in the publisher's layout, to `path`."""
        raise UsageError(f"backbone {config.name}: its family has no random weights: give its checkpoint a hub or url")
