"""The command `repro`: maps what happened to an exit code. Imports nothing heavy before a verb is known."""

import errno
import os
import sys

from repro.core.errors import Exit, ReproError

MENDABLE = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
        errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
    }
)  # fmt: skip
"""What a person can mend: a full disk, a quota, permissions, a folder where a file belongs, a name too long."""

NOBODY_READS = 141
"""As a shell reports a command whose reader went away."""


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code and never raises."""
    try:
        from repro.cli import app as cli

        return int(cli.dispatch(arguments))
    except ReproError as error:
        print(f"repro: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("repro: interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough of it; leave no complaint behind.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except OSError as error:
        if error.errno not in MENDABLE:
            return _internal(error)
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"repro: {where}{error.strerror}: make room or mend the path, then run it again", file=sys.stderr)
        return int(Exit.USAGE)
    except Exception as error:
        return _internal(error)


def _internal(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    print("repro: internal error (above): a defect of this tool, please report it", file=sys.stderr)
    return int(Exit.INTERNAL)


if __name__ == "__main__":
    main()
