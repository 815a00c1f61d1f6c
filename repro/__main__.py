"""The command `repro`: maps errors to exit codes. Nothing heavy is imported before the verb is known."""

import json
import os
import sys
from contextlib import suppress

from repro.core.disk import describe_disk_error, describe_temporary_failure, find_disk_errno
from repro.core.errors import Exit, MissingError, ReproError
from repro.core.reading import IrregularFileError

EXIT_BROKEN_PIPE = 141
"""The code a shell reports for a command whose output pipe was closed (128 + SIGPIPE)."""


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code and never raises."""
    try:
        from repro.cli import app as cli

        code = int(cli.dispatch(arguments))
        # Here rather than at exit, where Python would report a full disk with a traceback.
        sys.stdout.flush()
        return code
    except ReproError as error:
        if isinstance(error, MissingError) and error.missing and "--json" in arguments:
            print(json.dumps({"error": str(error), "exit_code": int(error.exit_code), "missing": list(error.missing)}))
        _complain(str(error))
        return int(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted: finished work is kept; run the same command again to resume")
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        # The reader closed our output pipe, as `repro list | head` does.
        _drop_output()
        return EXIT_BROKEN_PIPE
    except IrregularFileError as error:
        _complain(f"{error.filename}: {error.strerror}: correct the path, then run the command again")
        return int(Exit.USAGE)
    except Exception as error:
        temporary = describe_temporary_failure(error)
        if temporary is not None:
            _complain(temporary)
            return int(Exit.USAGE)
        number = find_disk_errno(error)
        if number is None:
            return _internal(error)
        where = getattr(error, "filename", None)
        if where is None and isinstance(error, OSError):
            # Every other write names its file. What was printed before may still be in the buffer.
            where = "standard output"
            with suppress(OSError):
                sys.stdout.flush()
        _complain(describe_disk_error(where, number))
        return int(Exit.USAGE)


def _complain(message: str) -> None:
    # Standard error may be a file on the full disk that the message is about: the exit code still says it.
    with suppress(OSError):
        # Imported here: rich takes time to import, and most commands end without an error.
        from repro.core.console import print_line

        print_line(f"repro: {message}", to_stderr=True)


def _drop_output() -> None:
    """Make stdout lead nowhere: Python would complain once more when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _internal(error: Exception) -> int:
    import traceback

    from repro.core.console import escape_text

    text = escape_text("".join(traceback.format_exception(error)), keep="\n")
    # Indented, because the error's message may quote text from others, whose lines must not look like this tool's.
    with suppress(OSError):
        print("\n".join(f"  {line}" for line in text.splitlines()), file=sys.stderr)
    _complain("internal error (see above): this is a bug, please report it")
    return int(Exit.INTERNAL)


if __name__ == "__main__":
    main()
