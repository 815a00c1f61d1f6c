"""What a config says of a file that `repro fetch` brings. Imports nothing heavy: `repro list` reads these."""

import re
import shlex
from typing import Annotated, Literal

from pydantic import Field, model_validator

from repro.core.config import Config
from repro.core.workspace import Workspace


class HubPlace(Config):
    """A file on the Hugging Face Hub."""

    repo: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    kind: Literal["model", "dataset"] = "model"
    revision: str
    """A full commit; a branch where no commit is known to us and the sha256 says which file is meant."""
    path: str


class RemoteFile(Config):
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Its name on this machine."""
    hub: HubPlace | None = None
    url: Annotated[str, Field(pattern="^https://")] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """None where no checksum is published: the one of the first download is recorded beside the file."""
    size: str
    """To read, as 9.56 GB."""

    @model_validator(mode="after")
    def _is_pinned(self) -> "RemoteFile":
        if self.hub and self.url:
            raise ValueError("a file lies on the Hub or at a url, not both")
        if self.hub and self.sha256 is None and not _is_commit(self.hub.revision):
            raise ValueError("a file on the Hub needs a full commit as its revision, or a sha256")
        return self

    @property
    def is_remote(self) -> bool:
        return self.hub is not None or self.url is not None

    @property
    def expected_bytes(self) -> int | None:
        """How many, as published, else as `size` says; None where that begins with no amount."""
        return self.bytes or parse_bytes(self.size)


def parse_bytes(size: str) -> int | None:
    """The first amount in words as "about 9.56 GB", of "2 to 3 MB" the larger; None where there is none."""
    found = re.match(r"(?:about )?(?:[\d.]+ to )?(\d+(?:\.\d+)?) ([kMG])B\b", size)
    return round(float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]]) if found else None


def fetch_command(name: str, workspace: Workspace, place: str | None = None) -> str:
    """The command that brings `name` to this workspace; who types it has read the licence."""
    source = f" --from {shlex.quote(place)}" if place else ""
    return f"repro fetch {name} --accept-license{source}{workspace.command_option}"


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")
