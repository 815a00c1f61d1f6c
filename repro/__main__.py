"""The command `repro`: maps errors to exit codes. Nothing heavy is imported before the command is known."""

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from io import StringIO
from typing import Any

from repro.core.disk import describe_disk_error, describe_temporary_failure, find_disk_errno
from repro.core.errors import Exit, ReproError, UsageError, hide_logins
from repro.core.reading import IrregularFileError
from repro.core.stopping import StoppedError, find_interruption, raise_on_signals

EXIT_BROKEN_PIPE = 141
"""The code a shell reports for a command whose output pipe was closed (128 + SIGPIPE)."""
LONGEST_MESSAGE = 4500
"""Characters. A path of this system has at most 4,096."""


def main() -> None:
    # pydantic reads the metadata of every installed package to find plugins, which none of the configs and records needs.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Of builds, and read by nothing here but NumPy's import, which fails if it is no number.
    if not os.environ.get("SOURCE_DATE_EPOCH", "0").isdecimal():
        del os.environ["SOURCE_DATE_EPOCH"]
    # A backend, which no figure needs, or another style, in which figures of two machines would differ.
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        os.environ.pop(name, None)
    raise_on_signals()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code and never raises.

    With --json, stdout is one JSON value: the command's, or if it printed none, an object with the error.
    """
    if "--json" not in arguments:
        return _guard(lambda: _dispatch(arguments))[0]
    with redirect_stdout(StringIO()) as held:
        code, failure = _guard(lambda: _dispatch(arguments))

    def release() -> int:
        print(held.getvalue() or (json.dumps({"error": failure}, indent=1) + "\n" if failure else ""), end="")
        sys.stdout.flush()
        return code

    return _guard(release)[0]


def _dispatch(arguments: list[str]) -> int:
    if sys.platform == "win32":
        raise UsageError("Windows is not supported: use Linux, macOS, WSL 2 or the container image (docs/image.md)")
    from repro.cli import app as cli

    code = int(cli.dispatch(arguments))
    # Here rather than at exit, where Python would report a full disk with a traceback.
    sys.stdout.flush()
    return code


def _guard(action: Callable[[], int]) -> tuple[int, dict[str, Any] | None]:
    """Return the exit code of `action`, and if it failed, what --json says of it. Messages are printed to stderr."""
    try:
        return action(), None
    except BrokenPipeError:
        # The reader closed our output pipe, as `repro list | head` does.
        _drop_output()
        return EXIT_BROKEN_PIPE, None
    except BaseException as raised:
        error = find_interruption(raised)
        if not isinstance(error, Exception | KeyboardInterrupt):
            raise
        kind, message = _explain(error)
        if len(message) > LONGEST_MESSAGE:
            # A name of any length from a config; what to do is at the end.
            message = f"{message[: LONGEST_MESSAGE - 500]} ... {message[-500:]}"
        _complain(message)
        missing = [dict(one) for one in getattr(error, "missing", ())]
        # As a shell reports a process that the signal ended: schedulers and scripts read it.
        code = 128 + error.signal if isinstance(error, StoppedError) else int(kind)
        return code, {"exit_code": code, "kind": kind.name.lower(), "message": message, "missing": missing}


def _explain(error: Exception | KeyboardInterrupt) -> tuple[Exit, str]:
    """Return the exit code of an error and its message. The traceback of an internal error is printed."""
    match error:
        case ReproError():
            # Names and configs may hold an address with a login.
            return error.exit_code, hide_logins(str(error))
        case KeyboardInterrupt():
            by = f" by {error.signal.name}" if isinstance(error, StoppedError) else ""
            return Exit.INTERRUPTED, f"interrupted{by}: finished work is kept; run the same command again to resume"
        case _ if _is_out_of_memory(error):
            return Exit.MISSING, (
                "out of memory: give the job more memory or fewer --workers, then run the same command again: finished work is kept"
            )
        case ModuleNotFoundError(name=str(name)) if find_spec(package := name.partition(".")[0]) is None:
            return Exit.USAGE, (
                f"{sys.executable} has no package {package}: run .venv/bin/repro after `make venv`, or install the project (README.md)"
            )
        case IrregularFileError():
            return Exit.USAGE, f"{error.filename}: {error.strerror}: correct the path, then run the command again"
        case _:
            temporary = describe_temporary_failure(error)
            if temporary is not None:
                return Exit.USAGE, temporary
            number = find_disk_errno(error)
            if number is None:
                _print_traceback(error)
                return Exit.INTERNAL, "internal error (see above): this is a bug, please report it"
            where = getattr(error, "filename", None)
            if where is None and isinstance(error, OSError):
                # Every other write names its file. What was printed before may still be in the buffer.
                where = "standard output"
                with suppress(OSError):
                    sys.stdout.flush()
            return Exit.USAGE, describe_disk_error(where, number)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the system refused memory, under any of the names by which Python and torch report that."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or re.search("can't start new thread|(can't|cannot) allocate memory", text, re.IGNORECASE) is not None
    )


def _complain(message: str) -> None:
    # Standard error may be a file on the full disk that the message is about: the exit code still says it.
    with suppress(OSError):
        # Imported here: rich takes time to import, and most commands end without an error.
        try:
            from repro.core.console import print_sentence
        except ModuleNotFoundError:  # not installed, which is what the message says
            print(f"repro: {message}", file=sys.stderr)
        else:
            print_sentence(f"repro: {message}", to_stderr=True)


def _drop_output() -> None:
    """Make stdout lead nowhere: Python would complain once more when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_traceback(error: Exception) -> None:
    import traceback

    from repro.core.console import escape_text

    text = escape_text("".join(traceback.format_exception(error)), keep="\n")
    # Indented, because the error's message may quote text from others, whose lines must not look like this tool's.
    with suppress(OSError):
        print("\n".join(f"  {line}" for line in text.splitlines()), file=sys.stderr)


if __name__ == "__main__":
    main()
