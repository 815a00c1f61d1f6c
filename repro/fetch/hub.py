"""Files on the Hugging Face Hub: huggingface_hub gives address, login and what the Hub says of a file.

The bytes are downloaded by repro/fetch/download.py: huggingface_hub (2.4) writes to a temporary file of each process and deletes
it when the connection is lost, so that 10 GB would start again from zero. The library reads HF_TOKEN, HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE when it is imported, so callers set what quiet_libraries sets before they import this module.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from repro.core import __version__
from repro.core.errors import MissingError, state_reason
from repro.core.remote_file import HubPlace, RemoteFile
from repro.fetch.http_client import DownloadSource, error_of_status, printable_url


@dataclass(frozen=True, slots=True)
class LocatedFile:
    source: DownloadSource
    revision: str
    """Commit that has the file."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE, or TRANSFORMERS_OFFLINE if it is not set, forbids the network."""
    return is_offline_mode()


def find_in_cache(place: HubPlace) -> Path | None:
    """Return the file in huggingface_hub's own cache, if another program has downloaded it."""
    found = try_to_load_from_cache(place.repo, place.path, revision=place.revision, repo_type=place.kind)
    # The library also returns a marker object, for files that are known not to exist.
    return Path(found) if isinstance(found, str) else None


def locate_on_hub(place: HubPlace, file: RemoteFile) -> LocatedFile:
    """Ask the Hub for a file's address, size and sha256, and compare them with the config's.

    Raises:
        MissingError: access denied, no such file, no connection, or not the file that the config names.
        DroppedError: a temporary failure.
    """
    url = hf_hub_url(place.repo, place.path, repo_type=place.kind, revision=place.revision)
    remedy = (
        f"accept the conditions on the Hub's page of {place.repo}, if it has any, and set HF_TOKEN to a token that may read "
        "it, or download the file yourself and name it with --from FILE"
    )
    source = DownloadSource(url, file.bytes, file.sha256, remedy=remedy)
    token = get_token()
    try:
        # token=False: with None the library would look for a stored login by itself.
        found = get_hf_file_metadata(
            url, token=token or False, library_name="actiondiff-repro", library_version=__version__
        )
    except HfHubHTTPError as error:
        raise error_of_status(error.response.status_code, source) from error
    except Exception as error:  # whatever the library's own HTTP client raises: it has changed clients before
        raise MissingError(
            f"{printable_url(url)}: the Hub cannot be reached ({type(error).__name__}: {state_reason(error, most=None)}): try "
            "again later, or name the file with --from FILE"
        ) from error
    # The ETag of a large file (LFS) is its sha256; that of a small one is a git hash of 40 digits, which verifies nothing here.
    published = found.etag if found.etag and re.fullmatch("[0-9a-f]{64}", found.etag) else None
    if None not in (published, file.sha256) and published != file.sha256:
        raise MissingError(
            f"{printable_url(url)}: the Hub's file has sha256 {published}, expected {file.sha256}: it was replaced: name the "
            "expected file with --from"
        )
    login = f"Bearer {token}" if token else None
    source = DownloadSource(url, file.bytes or found.size, file.sha256 or published, login, remedy)
    return LocatedFile(source, found.commit_hash or place.revision)
