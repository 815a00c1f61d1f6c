"""A file that `repro fetch` downloads, as configs describe it. Imports nothing heavy: `repro list` reads these configs."""

import re
import shlex
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from repro.core.config import Config, Positive
from repro.core.errors import hide_logins
from repro.core.workspace import Workspace


def _refuse_login(address: str) -> str:
    # It would be shown and recorded, and no request sends it.
    if hide_logins(address) != address:
        raise ValueError(
            "it has a user name or password: leave them out; fetch such a file yourself, then `repro fetch --from FILE`"
        )
    return address


Address: TypeAlias = Annotated[str, AfterValidator(_refuse_login)]
"""An address without a login."""


class HubPlace(Config):
    """A file on the Hugging Face Hub."""

    repo: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    kind: Literal["model", "dataset"] = "model"
    revision: str
    """A full commit, or a branch if the file has a sha256, which then says which version is meant."""
    path: str


class RemoteFile(Config):
    """A file and where it is published, pinned by a commit or a sha256. Without `hub` and `url`, the user brings it."""

    file: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Its name on this machine."""
    hub: HubPlace | None = None
    url: Annotated[Address, Field(pattern="^https://")] | None = None
    bytes: Positive | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """None if none is published: the sha256 of the first download is then recorded next to the file."""
    size: str
    """For people, as in 9.56 GB."""

    @model_validator(mode="after")
    def _is_pinned(self) -> "RemoteFile":
        if self.hub and self.url:
            raise ValueError("a file is on the Hub or at a url, not both")
        # A branch can move: without a checksum, two downloads of one config could be two different files.
        if self.hub and self.sha256 is None and not _is_commit(self.hub.revision):
            raise ValueError("a file on the Hub needs a full commit as its revision, or a sha256")
        return self

    @property
    def is_remote(self) -> bool:
        return self.hub is not None or self.url is not None

    @property
    def expected_bytes(self) -> int | None:
        """Its published length in bytes, else the length that `size` states; None if it states none."""
        return self.bytes or parse_bytes(self.size)


def parse_bytes(size: str) -> int | None:
    """Parse a text such as "about 9.56 GB", or "2 to 3 MB" (the larger counts); None if it does not start with a size."""
    found = re.match(r"(?:about )?(?:[\d.]+ to )?(\d+(?:\.\d+)?) ([kMG])B\b", size)
    return round(float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]]) if found else None


def fetch_command(name: str, workspace: Workspace, source: str | None = None) -> str:
    """Return the command that fetches the asset `name`, from the folder or address `source` [default: its publisher]."""
    option = f" --from {shlex.quote(source)}" if source else ""
    return f"repro fetch {name} --accept-license{option}{workspace.command_option}"


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")
