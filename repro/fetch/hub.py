"""Where a file of the Hugging Face Hub is to be had: huggingface_hub knows address, login and what the Hub says of the file.

The bytes come through repro/fetch/download.py: huggingface_hub (2.4) gives each process a part of its own and deletes it when the
connection is lost, so that 10 GB would begin anew. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are read by the library.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from repro import __version__
from repro.core.errors import MissingError
from repro.core.remote_file import HubPlace, RemoteFile
from repro.fetch.http_client import Source, refusal, shown


@dataclass(frozen=True, slots=True)
class Located:
    source: Source
    revision: str
    """The commit it is of."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    import huggingface_hub

    return huggingface_hub.is_offline_mode()


def cached(place: HubPlace) -> Path | None:
    """The file in the library's own cache, where another program has brought it."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(
        place.repo, place.path, revision=place.revision, repo_type=place.kind
    )
    return Path(found) if isinstance(found, str) else None


def locate(place: HubPlace, file: RemoteFile) -> Located:
    """Ask the Hub for a file: its address, and what is known of it here or there.

    Raises:
        MissingError: refused, absent, out of reach, or not the file the config names.
        DroppedError: it may go better a little later.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(place.repo, place.path, repo_type=place.kind, revision=place.revision)
    remedy = (
        f"agree to the conditions on the Hub's page of {place.repo}, where it has any, and set HF_TOKEN to a token that "
        "may read it, or bring the file yourself and name it with --from FILE"
    )
    source = Source(url, file.bytes, file.sha256, remedy=remedy)
    token = get_token()
    try:
        found = get_hf_file_metadata(
            url, token=token or False, library_name="actiondiff-repro", library_version=__version__
        )
    except HfHubHTTPError as error:
        raise refusal(error.response.status_code, source) from error
    except Exception as error:  # whatever the library's own HTTP client raises: it has changed clients before
        raise MissingError(
            f"{shown(url)}: the Hub cannot be reached ({type(error).__name__}: {' '.join(str(error).split())}): try again "
            "later, or name the file with --from FILE"
        ) from error
    published = found.etag if found.etag and re.fullmatch("[0-9a-f]{64}", found.etag) else None
    if None not in (published, file.sha256) and published != file.sha256:
        raise MissingError(
            f"{shown(url)}: the Hub's file has sha256 {published}, expected {file.sha256}: it is another file now: name "
            "the one meant with --from"
        )
    login = f"Bearer {token}" if token else None
    source = Source(url, file.bytes or found.size, file.sha256 or published, login, remedy)
    return Located(source, found.commit_hash or place.revision)
