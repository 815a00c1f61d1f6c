"""Options that several verbs take, and checks of their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from repro.core.errors import UsageError

WorkspaceOption = Annotated[Path | None, Parameter(name="--workspace")]
SetOption = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
DeviceOption = Annotated[str | None, Parameter(name="--device")]
BatchOption = Annotated[int | None, Parameter(name="--batch")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="")]
SeedsOption = Annotated[int, Parameter(name="--seeds")]
ProtocolOption = Annotated[Literal["published", "honest"], Parameter(name="--protocol")]
FlagOption = Annotated[bool, Parameter(negative="")]


def changes(pairs: Sequence[str], **named: str | None) -> dict[str, str]:
    """--set's KEY=VALUE pairs, and options that stand for one."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected KEY=VALUE, as frames.window=16")
        found[key] = value
    return found | {key: value for key, value in named.items() if value is not None}


def at_least_one(option: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{option} {value}: expected a number from 1 on")
    return value


def only_with(options: Mapping[str, object], other: str) -> None:
    """Refuse options that were given and say nothing without another."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} goes with {other}: add it, or leave {option} out")
