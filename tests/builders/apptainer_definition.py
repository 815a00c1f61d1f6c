"""A strict reader of Apptainer definition files, for trying one without Apptainer: what it does not know is an error
with its line, where a lenient reader would drop it."""

import re
import shlex
from dataclasses import dataclass, field

HEADERS = ("bootstrap", "from", "stage", "includecmd")
SECTIONS = (
    "arguments", "files", "post", "environment", "runscript", "startscript", "test", "labels", "help", "setup", "pre",
    "appinstall",
)  # fmt: skip


class DefinitionError(Exception):
    """What is wrong, and in which line."""


@dataclass(slots=True)
class Definition:
    headers: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    """By name without the percent sign; text with its arguments filled in."""

    @property
    def files(self) -> list[tuple[str, str]]:
        """Source and destination of every line of %files."""
        pairs = []
        for line in self.sections.get("files", "").splitlines():
            words = shlex.split(line, comments=True)
            if len(words) == 2:
                pairs.append((words[0], words[1]))
            elif words:
                raise DefinitionError(f"%files: expected 'source destination', found '{line.strip()}'")
        return pairs

    @property
    def labels(self) -> dict[str, str]:
        return dict(
            line.strip().split(None, 1) for line in self.sections.get("labels", "").splitlines() if line.strip()
        )


def parse(text: str, arguments: dict[str, str] | None = None) -> Definition:
    """Read a definition; `arguments` stand over those of its %arguments, as --build-arg does.

    Raises:
        DefinitionError: an unknown header or section, one that occurs twice, an argument nobody set, no %post.
    """
    definition = Definition()
    bodies: dict[str, list[str]] = {}
    section = None
    for number, line in enumerate(text.splitlines(), start=1):
        start = re.match(r"%(\S+)\s*(.*)$", line)
        if start:
            section = start[1]
            if section not in SECTIONS:
                raise DefinitionError(f"line {number}: unknown section %{section}")
            if section in bodies:
                raise DefinitionError(f"line {number}: section %{section} occurs twice")
            if start[2]:
                raise DefinitionError(f"line {number}: words behind %{section}: '{start[2]}'")
            bodies[section] = []
        elif section is not None:
            bodies[section].append(line)
        elif line.strip() and not line.startswith("#"):
            header = re.fullmatch(r"(\w+):\s*(.+)", line)
            if not header or header[1].lower() not in HEADERS:
                raise DefinitionError(f"line {number}: expected a header such as 'Bootstrap: docker', found '{line}'")
            definition.headers[header[1].lower()] = header[2]
    for required in ("bootstrap", "from"):
        if required not in definition.headers:
            raise DefinitionError(f"header '{required}' is missing")
    if "post" not in bodies:
        raise DefinitionError("section %post is missing")
    values = {}
    for line in bodies.pop("arguments", []):
        if line.strip():
            name, found, value = line.strip().partition("=")
            if not found:
                raise DefinitionError(f"%arguments: expected NAME=value, found '{line.strip()}'")
            values[name] = value
    unknown = set(arguments or {}) - set(values)
    if unknown:
        raise DefinitionError(f"no such argument: {', '.join(sorted(unknown))}")
    values |= arguments or {}
    definition.headers = {name: _filled(value, values) for name, value in definition.headers.items()}
    definition.sections = {name: _filled("\n".join(body) + "\n", values) for name, body in bodies.items()}
    return definition


def _filled(text: str, values: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise DefinitionError(f"argument {match[1]} is set nowhere")
        return values[match[1]]

    return re.sub(r"\{\{\s*(\w+)\s*\}\}", value, text)
