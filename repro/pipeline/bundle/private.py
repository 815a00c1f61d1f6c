"""What must not leave a machine with a bundle: paths, names of hosts and users, tokens.

Text that is free to hold anything (provenance, notes, errors of an audit) is redacted. Everything else, such as names of clips, is
part of the evidence and cannot be changed: `find` looks through it, and a bundle that would still hold something is not written.
"""

import platform
import pwd
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from os import getuid
from pathlib import Path
from typing import Any

from repro.core.workspace import Workspace, environment_values

REMOVED = "[removed]"
"""Stands where private text was."""
SECRET_NAMES = re.compile(r"token|secret|passw|credential|key|auth|cookie|session", re.IGNORECASE)
"""Names of variables whose values are secret."""
TOKENS = r"hf_[A-Za-z0-9]{20,}|gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
PATHS = r"(?<![\w.:/<\\-])~?/[\w.+@-]+(?:/[^\s\"'<>|:;,()\[\]]*)+|(?<![A-Za-z])[A-Za-z]:\\[^\s\"'<>|;,]+|file:///[^\s\"'<>]+"
"""Absolute paths of at least two parts, on any system."""
EMAILS = r"[\w.+-]+@[\w-]+\.[\w.-]+\w"
ANYBODY = {
    "root",
    "user",
    "users",
    "ubuntu",
    "admin",
    "nobody",
    "guest",
    "home",
    "localhost",
    "docker",
    "data",
    "work",
    "test",
}
"""Names of users and hosts that say nothing of anybody."""
PERSONAL_KEYS = re.compile(r"host|node|user|login|home|cwd|dir|path|email|argv|command", re.IGNORECASE)
"""Keys of a provenance that are left out, whatever they hold: a record may come from another machine."""


@dataclass(frozen=True, slots=True)
class Private:
    """Patterns by what they find."""

    hard: re.Pattern[str]
    """Tokens and paths: nowhere in a bundle."""
    words: re.Pattern[str]
    """Names of user and host, addresses, values of the environment: in free text alone, since a class may have a user's name."""

    def redact(self, text: str) -> str:
        """Return free text with everything private replaced."""
        return self.words.sub(REMOVED, self.hard.sub(REMOVED, text))

    def redact_json(self, value: Any, keep: Iterable[str] = ()) -> Any:
        """Return a JSON value with the texts in it redacted, keys too; below the keys `keep` nothing is changed."""
        # Of the texts of a JSON value each is judged by itself.
        if isinstance(value, str):
            # As a whole, because a path may have spaces.
            return REMOVED if re.match(r"(~?/|[A-Za-z]:[\\/]).+", value) else self.redact(value)
        if isinstance(value, list):
            return [self.redact_json(one, keep) for one in value]
        if isinstance(value, dict):
            return {self.redact(key): one if key in keep else self.redact_json(one, keep) for key, one in value.items()}
        return value

    def find(self, text: str, *, words: bool) -> str:
        """Return the first private text; empty if there is none. With `words`, names of user and host count too."""
        found = self.hard.search(text) or (self.words.search(text) if words else None)
        return found.group() if found else ""


def describe_private(workspace: Workspace) -> Private:
    """Return what is private on this machine and of this workspace."""
    values = environment_values()
    secrets = {value for name, value in values.items() if SECRET_NAMES.search(name) and len(value) >= 6}
    folders = {
        str(path)
        for path in (
            Path.cwd(),
            Path.home(),
            Path(tempfile.gettempdir()),
            workspace.root,
            workspace.data,
            workspace.checkpoints,
        )
    }
    for folder in tuple(folders):
        # As given and as resolved: libraries report either.
        folders.add(str(Path(folder).resolve()))
    names = {Path.home().name, platform.node(), platform.node().split(".")[0]}
    names |= {values.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "SUDO_USER", "HOST")}
    try:
        account = pwd.getpwuid(getuid())
        # The first part of the GECOS field is the full name.
        names |= {account.pw_name, account.pw_gecos.split(",")[0]}
    except KeyError:  # a container's user without an account
        pass
    # Names of one or two letters are in every text.
    names = {name for name in names if len(name) > 2 and name.lower() not in ANYBODY}
    # Of other variables, long values without a slash, such as an address of mail or a job's name.
    names |= {value for value in values.values() if len(value) >= 12 and not re.search(r"[\s/:]", value)}
    # The longest first: a pattern takes the first alternative that fits, and would leave the rest of a longer secret.
    literal = [re.escape(text) for text in sorted(secrets, key=len, reverse=True)]
    places = [rf"{re.escape(text)}[^\s\"'<>|;,]*" for text in sorted(folders, key=len, reverse=True) if len(text) > 4]
    hard = re.compile("|".join([*literal, *places, TOKENS, PATHS]))
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    words = re.compile(
        rf"(?<![A-Za-z0-9])(?:{alternatives})(?![A-Za-z0-9])|{EMAILS}" if names else EMAILS, re.IGNORECASE
    )
    return Private(hard, words)
