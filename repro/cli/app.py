"""The command `repro`: which commands there are, and how a command line becomes a call of one.

A command is a function in its own module, which is imported when the command is called, or when `repro --help` lists all. Such
a module imports nothing at its top that imports torch; a command that computes imports what it needs in its function.
"""

import sys
from collections.abc import Iterator, Sequence

from cyclopts import App, CycloptsError, Group, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from repro import __version__
from repro.core.errors import Exit, UsageError, find_nearest, state_reason

COMMANDS = {
    "Run a row": {
        "list": "List the 24 rows: published value, and what is missing to run each.",
        "plan": "Estimate download, disk and GPU time of rows, and list what is missing.",
        "run": "Run a row end to end: extract features, train the readout, write a run record.",
        "grid": "Train a row's readout at each of 7 timesteps and 13 layers and report the best.",
        "smoke": "Run end to end on small clips that it generates: offline, on a CPU, in minutes.",
    },
    "Data and checkpoints": {
        "fetch": "Bring checkpoints and data sets: download, verify, unpack and audit them.",
        "data": "Show, unpack, audit and compare the data sets.",
    },
    "Features and readouts": {
        "extract": "Extract features of data sets, of folders of videos, or of single videos.",
        "features": "Write stored features to a file to share, or read such a file.",
        "readout": "Train a row's readout on stored features; no video is needed.",
        "predict": "Score any video files with a row's trained readout.",
    },
    "Judge and show": {
        "check": "Judge recorded scores against the published table; exits 1 if any is higher or lower.",
        "report": "Write one page with everything that was measured: table, figures, claims, data, computing.",
        "scores": "Show a row's score by class or by group of clips, and which classes are confused.",
        "bundle": "Write the evidence of rows to a zip file that others can judge: records, predictions, configs, hashes of features; no video.",
        "track": "Log to MLflow the runs that it does not have yet, with the verdicts of `repro check` as tags.",
        "ui": "Start MLflow's user interface on the workspace's runs, and print the link to them. Ctrl-C ends it.",
        "show": "Show what a backbone makes of a video: frames, feature maps and vectors over time, as one HTML page.",
        "verify": "Compare ways of computing features, or features with golden or stored ones; exits 1 if they differ too much.",
    },
    "Machines": {
        "doctor": "Check whether this machine can run a row, or any: software, GPU, disk, locks, data, checkpoints.",
        "status": "Show what runs in a workspace, on this machine and on others, and how it ended.",
        "submit": "Run rows as jobs on several GPUs or machines, with Snakemake.",
    },
}
"""Every command with the first line of its docstring, by its group in `repro --help`, which so imports none of them."""
FOLDERS = {"Judge and show": "judge", "Machines": "machines"}
"""Groups whose modules are in a folder of their own."""

UNWRAPPED = 10_000
"""Columns of help off a terminal: more than any of its lines has."""
COMPLETE = "__complete"
"""The word with which Cyclopts' completion scripts ask for names."""
MOST_OWNERS = 6
"""Commands that are named as those which have an option."""
OTHERS = ("-h", "--help", "--version", "--install-completion")
"""Options of `repro` itself."""


def command_names() -> tuple[str, ...]:
    """Return all commands, in the order of `repro --help`."""
    return tuple(name for commands in COMMANDS.values() for name in commands)


def locate_command(name: str) -> tuple[str, str]:
    """Return the module of a command and its function there."""
    # `list` is a builtin, and its function is named otherwise.
    function = "list_rows" if name == "list" else name
    folder = next((f"repro.cli.{below}" for group, below in FOLDERS.items() if name in COMMANDS[group]), "repro.cli")
    return f"{folder}.{function}", function


def build_app(called: str = "") -> App:
    """Return the app with every command registered and none imported yet.

    Args:
        called: The command that the command line names; it gets the help of its docstring in place of the line above.
    """
    app = App(
        name="repro",
        suppress_keyboard_interrupt=False,
        # Frames are drawn for eyes: a pipe, a file and a screen reader that reads them get the text alone, unwrapped.
        help_formatter="default" if sys.stdout.isatty() else "plain",
        help_format="markdown" if sys.stdout.isatty() else "plaintext",
        version=__version__,
        help=(
            "Reproduce the results table of ActionDiff (arXiv 2509.08908).\n\n"
            "`repro ROW` runs a row of the table end to end and records its score; `repro check` compares the score with the "
            "published one.\n\n"
            "Start with `repro smoke`, which needs no data and no downloads, and `repro list`, which names the rows."
        ),
        # A command's help inherits it, and the codes are stated once.
        help_epilogue=None
        if called
        else (
            "Exit codes: 0 success; 1 a score is higher or lower than published, or two manifests differ; 2 usage; 3 "
            "internal error; 4 something required is missing; 5 nothing to check; 130 interrupted."
        ),
    )
    for title, commands in COMMANDS.items():
        group = Group.create_ordered(title)
        for name, summary in commands.items():
            app.command(
                "{}:{}".format(*locate_command(name)),
                name=name,
                group=group,
                help=None if name == called else summary,
                sort_key=command_names().index(name),
            )
    app.register_install_completion_command(
        help="Complete commands, options and rows in bash, zsh or fish, from the next shell on."
    )
    others = Group.create_ordered("Other")
    for name in OTHERS[1:]:
        app[name].group = others
    return app


def dispatch(arguments: Sequence[str]) -> Exit:
    """Run one command line. `repro ROW` is `repro run ROW`.

    Raises:
        UsageError: no such command, row or option.
        ReproError: raised by the command.
    """
    words = _move_options(arguments)
    # The first word decides before cyclopts parses anything, so that a misspelt row gets a suggestion from both rows and commands.
    if words and words[0] not in (*command_names(), *OTHERS, COMPLETE):
        _require_row(words[0])
        words.insert(0, "run")
    command = words[0] if words else ""
    app, console = build_app(command), None
    if not sys.stdout.isatty() and ({"--help", "-h"} & set(words) or not words):
        from repro.core.console import OutputConsole

        console = OutputConsole(width=UNWRAPPED)
    try:
        return Exit(
            app(words, console=console, exit_on_error=False, print_error=False, result_action="return_value") or Exit.OK
        )
    except SystemExit as error:
        if command != "--install-completion":
            raise
        # Cyclopts has said why.
        raise UsageError("nothing was installed: add --shell bash, --shell zsh or --shell fish") from error
    except CycloptsError as error:
        called = " ".join(("repro", *(error.command_chain or words[:1])))
        raise UsageError(f"{_describe_mistake(error, called)} (see `{called} --help`)") from error


def _move_options(arguments: Sequence[str]) -> list[str]:
    """Return the words with options before the command moved behind it: `repro --json list` is `repro list --json`.

    Raises:
        UsageError: an option that only some commands have, or no command.
    """
    words, moved = list(arguments), []
    while words and words[0].partition("=")[0] in ("--workspace", "--json"):
        moved.append(words.pop(0))
        if moved[-1] == "--workspace" and words:
            moved.append(words.pop(0))
    if words and words[0].startswith("-") and words[0] not in OTHERS:
        raise UsageError(f"{words[0]}: write it after the command: only --workspace and --json may come before it")
    if moved and not words:
        raise UsageError(f"{' '.join(moved)}: no command after it (`repro --help` lists them)")
    # What follows `--` is no option.
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *moved, *words[end:]]


def list_options(app: App, command: str = "") -> Iterator[tuple[str, str]]:
    """Yield every command with each of its options and arguments, also for the commands of a command such as `data`."""
    if app.default_command is None or not command:
        for name in app:
            if not name.startswith("-"):
                yield from list_options(app[name], f"{command} {name}".strip())
        return
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.parse and argument.show:
            yield from ((command, name) for name in argument.names)


def _describe_mistake(error: CycloptsError, command: str) -> str:
    """Say in the words of this command line what Cyclopts refused of it."""
    if isinstance(error, UnknownOptionError):
        return _describe_unknown(error.token.keyword or error.token.value, command)
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument {', '.join(map(repr, error.unused_tokens or ()))}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{error.keyword}: its value is missing" if error.keyword else f"{error.argument.name} is missing"
    return state_reason(error, most=None)


def _describe_unknown(token: str, command: str) -> str:
    """Say which commands have an option that `command` does not have, or which of its options is nearest."""
    option = token.partition("=")[0]
    word, known = option.lstrip("-"), [(f"repro {name}", other) for name, other in list_options(build_app())]
    # Options that are written for a command, as --grid for `repro grid`, and those of another command are no typing errors.
    if word in command_names() and command != f"repro {word}":
        return f"{option} is no option of `{command}`: `repro {word}` is a command of its own"
    if owners := [f"`{name}`" for name, other in known if other == option]:
        named = ", ".join(owners) if len(owners) <= MOST_OWNERS else "other commands"
        return f"{option} is no option of `{command}`, but of {named}"
    # Without dashes, which every option has in common.
    near = find_nearest(word, [other.lstrip("-") for name, other in known if name == command and other.startswith("-")])
    return f"unknown option {token}" + near.replace("'", "'--", 1)


def _require_row(word: str) -> None:
    """Refuse a first word that is neither command nor row, with the nearest of both."""
    # Imported here, so that `repro --help` reads no config.
    from repro.core.config import is_config_path
    from repro.table import rows

    names = [*rows.row_names(), *rows.extra_names()]
    if word in names or rows.is_smoke_row(word) or is_config_path(word):
        return
    near = find_nearest(word, [*command_names(), *names])
    raise UsageError(
        f"unknown row or command '{word}'{near} (`repro list` shows the rows, `repro list --all` also the extras, "
        "`repro --help` the commands)"
    )
