"""Requests for a file or for the rest of one: http and https, redirects, and refusals explained in one line.

Written on urllib because resuming needs control of Range and If-Range: huggingface_hub's `http_get` resumes by length alone, and
would join the parts of two versions of a file.
"""

import socket
import ssl
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPErrorProcessor, HTTPRedirectHandler, Request, build_opener

from repro.core import __version__
from repro.core.errors import MissingError, ReproError, UsageError, state_reason

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses with which the same request may succeed a little later."""


@dataclass(frozen=True, slots=True)
class DownloadSource:
    """The address of a file, and what is known of the file."""

    url: str
    bytes: int | None = None
    sha256: str | None = None
    authorization: str | None = field(default=None, repr=False)  # no repr: it must not get into messages
    """Sent only to the host of `url`, never to a host that it redirects to."""
    remedy: str = "download the file yourself and name it with --from FILE"
    """What the user can do if the server refuses."""


class DroppedError(Exception):
    """The connection failed in a way that may be retried; the message says how."""


def request_file(source: DownloadSource, *, first: int = 0, validator: str | None = None) -> HTTPResponse:
    """Request a file, or the rest of it.

    Args:
        source: The file.
        first: Number of bytes already received; the server is asked for what follows them.
        validator: ETag or date of the version that they are of. If the server has another version, it sends all of it.

    Returns:
        The response, of status 200 (all of the file), 206 (the rest) or 416 (nothing follows). The caller closes it.

    Raises:
        DroppedError: a temporary failure.
        MissingError: access denied, no such file, or no such server.
        UsageError: the address is invalid.
    """
    # identity: with a compressed transfer, ranges and lengths would count other bytes than the file's.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"actiondiff-repro/{__version__}"}
    if source.authorization:
        headers["Authorization"] = source.authorization
    if first:
        # With If-Range, a server whose file has changed answers with all of the new one (status 200), not with its
        # end.
        headers["Range"] = f"bytes={first}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = Request(source.url, headers=headers)  # noqa: S310  # configs and --from allow http and https only
        response: HTTPResponse = build_opener(_SafeRedirects, _KeepErrorStatuses).open(request, timeout=TIMEOUT)
    except HTTPError as error:  # a redirect that leads nowhere
        with error:
            raise error_of_status(error.code, source) from error
    except URLError as error:
        raise _error_of_reason(error.reason, source, first) from error
    except (InvalidURL, ValueError) as error:
        raise UsageError(f"{printable_url(source.url)}: not an address: {error}") from error
    except (OSError, HTTPException) as error:
        raise DroppedError(describe_lost_connection(error)) from error
    if response.status in (200, 206, 416):
        return response
    with response:
        raise error_of_status(response.status, source)


def error_of_status(status: int, source: DownloadSource) -> ReproError | DroppedError:
    """Return the error for an HTTP status without a file."""
    where = printable_url(source.url)
    if status in TEMPORARY_STATUSES:
        return DroppedError(f"{where} answers HTTP {status}")
    # No retry: the same request will be refused again.
    if status in (401, 403):
        return MissingError(f"{where}: access denied (HTTP {status}): {source.remedy}")
    if status in (404, 410):
        return MissingError(f"{where}: not found (HTTP {status}): name another place with --from URL or --from FILE")
    return MissingError(f"{where}: the server answers HTTP {status}, expected the file: {source.remedy}")


def describe_lost_connection(error: object) -> str:
    """Describe in words why a connection failed."""
    text = "no data arrived in time" if isinstance(error, TimeoutError) else state_reason(error, most=None)
    return f"the connection failed ({text})"


def printable_url(url: str) -> str:
    """Return an address as it may be printed and recorded: without query and user name, which may be secrets."""
    # By hand and not with urlsplit, which raises for the malformed addresses that messages also have to show.
    scheme, slashes, rest = url.partition("#")[0].partition("://")
    place, query, _ = rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}{query and '?...'}"


def _error_of_reason(reason: object, source: DownloadSource, first: int) -> ReproError | DroppedError:
    """Return the error for a failure to connect."""
    where = printable_url(source.url)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return MissingError(
            f"{where}: the server's certificate cannot be verified ({reason.verify_message}): {source.remedy}"
        )
    # A host that was found before (some bytes have come) exists: its name service fails temporarily.
    if isinstance(reason, socket.gaierror) and not first:
        return MissingError(f"{where}: host not found: without a network, {source.remedy}")
    return DroppedError(describe_lost_connection(reason))


class _KeepErrorStatuses(HTTPErrorProcessor):
    """Return responses with error statuses instead of raising; redirects are still followed."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        if response.status >= 400:
            return response
        answer: HTTPResponse = super().http_response(request, response)
        return answer

    https_response = http_response


class _SafeRedirects(HTTPRedirectHandler):
    """Follow redirects, but never from https to http, and without the login if the host changes."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            fp.close()
            raise MissingError(
                f"{printable_url(req.full_url)}: leads to {printable_url(newurl)}, which is not https: not followed"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        # urllib copies all headers to the new request. The Hub redirects to hosts that must not get the user's token.
        if request is not None and new.netloc != old.netloc:
            request.remove_header("Authorization")
        return request
