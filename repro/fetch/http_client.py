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

from repro import __version__
from repro.core.errors import MissingError, ReproError, UsageError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Temporary statuses: the same request may succeed a little later."""


@dataclass(frozen=True, slots=True)
class Source:
    url: str
    bytes: int | None = None
    sha256: str | None = None
    authorization: str | None = field(default=None, repr=False)
    """Sent only to the host of `url`, never to a host that it redirects to."""
    remedy: str = "bring the file yourself and name it with --from FILE"
    """What the user can do if the server refuses."""


class DroppedError(Exception):
    """The connection failed in a way that may be retried; the message says how."""


def ask(source: Source, *, begin: int = 0, validator: str | None = None) -> HTTPResponse:
    """The server's answer, 200, 206 or 416: the file, or what follows its first `begin` bytes if `validator` still holds.

    Raises:
        DroppedError: it may go better a little later.
        MissingError: refused, absent, or no such server.
        UsageError: no address.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": f"actiondiff-repro/{__version__}"}
    if source.authorization:
        headers["Authorization"] = source.authorization
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = Request(source.url, headers=headers)  # noqa: S310  # http and https alone, by the configs and --from
        response: HTTPResponse = build_opener(_Redirects, _Answers).open(request, timeout=TIMEOUT)
    except HTTPError as error:  # redirects that lead nowhere
        with error:
            raise refusal(error.code, source) from error
    except URLError as error:
        raise _unreachable(error.reason, source, begin) from error
    except (InvalidURL, ValueError) as error:
        raise UsageError(f"{shown(source.url)}: not an address: {error}") from error
    except (OSError, HTTPException) as error:
        raise DroppedError(failure(error)) from error
    if response.status in (200, 206, 416):
        return response
    with response:
        raise refusal(response.status, source)


def refusal(status: int, source: Source) -> ReproError | DroppedError:
    """Return the error that an HTTP status without a file means."""
    where = shown(source.url)
    if status in PASSING:
        return DroppedError(f"{where} answers HTTP {status}")
    if status in (401, 403):
        return MissingError(
            f"{where}: the server gives it only to those who may have it (HTTP {status}): {source.remedy}"
        )
    if status in (404, 410):
        return MissingError(f"{where}: not there (HTTP {status}): name another place with --from URL or --from FILE")
    return MissingError(f"{where}: the server answers HTTP {status}, expected the file: {source.remedy}")


def failure(error: object) -> str:
    """Describe in words why a connection failed."""
    text = "nothing came in time" if isinstance(error, TimeoutError) else " ".join(str(error).split())
    return f"the connection failed ({text or type(error).__name__})"


def shown(url: str) -> str:
    """Return an address as it may be printed and recorded: without query and user name, which may be secrets."""
    scheme, slashes, rest = url.partition("#")[0].partition("://")
    place, query, _ = rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}{query and '?...'}"


def _unreachable(reason: object, source: Source, begin: int) -> ReproError | DroppedError:
    where = shown(source.url)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return MissingError(
            f"{where}: the server's certificate cannot be verified ({reason.verify_message}): {source.remedy}"
        )
    if isinstance(reason, socket.gaierror) and not begin:
        return MissingError(f"{where}: no such host can be found from here: without a network, {source.remedy}")
    return DroppedError(failure(reason))


class _Answers(HTTPErrorProcessor):
    """Leaves every answer but a redirect to whoever asked."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        if response.status >= 400:
            return response
        answer: HTTPResponse = super().http_response(request, response)
        return answer

    https_response = http_response


class _Redirects(HTTPRedirectHandler):
    """Follows a server elsewhere, but takes no login there, and goes from https to nothing less."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            fp.close()
            raise MissingError(f"{shown(req.full_url)}: leads to {shown(newurl)}, which is not https: not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new.netloc != old.netloc:
            request.remove_header("Authorization")
        return request
