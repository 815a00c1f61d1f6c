"""The command `repro`: maps errors to exit codes. Nothing heavy is imported before the verb is known."""

import errno
import os
import sys

from repro.core.errors import Exit, ReproError

USER_FIXABLE_ERRNOS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
        errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
    }
)  # fmt: skip
"""errno values that the user can fix: disk full, quota, permissions, a folder in place of a file, a name too long."""

EXIT_BROKEN_PIPE = 141
"""The code a shell reports for a command whose output pipe was closed (128 + SIGPIPE)."""


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code and never raises."""
    try:
        from repro.cli import app as cli

        return int(cli.dispatch(arguments))
    except ReproError as error:
        _print_error(f"repro: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("repro: interrupted: finished work is kept; run the same command again to resume", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        # The reader closed our output pipe, as `repro list | head` does. Python would complain once more when it flushes
        # stdout at exit, so stdout now leads nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        from repro.core.reading import IrregularFileError

        if error.errno not in USER_FIXABLE_ERRNOS and not isinstance(error, IrregularFileError):
            return _internal(error)
        where = f"{error.filename}: " if error.filename is not None else ""
        _print_error(f"repro: {where}{error.strerror}: free space or correct the path, then run the command again")
        return int(Exit.USAGE)
    except Exception as error:
        return _internal(error)


def _print_error(text: str) -> None:
    # Imported here: rich takes time to import, and most commands end without an error.
    from repro.core.console import print_line

    print_line(text, to_stderr=True)


def _internal(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    print("repro: internal error (see above): this is a bug, please report it", file=sys.stderr)
    return int(Exit.INTERNAL)


if __name__ == "__main__":
    main()
