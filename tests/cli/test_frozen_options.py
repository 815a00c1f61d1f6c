"""The command line is frozen: a new command or option, or one that goes, is a decision that changes options.txt too."""

import io
import re
from pathlib import Path

import pytest
from builders.commands import run_repro
from cyclopts.help import DefaultFormatter
from rich.console import Console

from repro.cli.app import COMMANDS, build_app, command_names, list_options

GROUPS = {"data": ("status", "new", "prepare", "audit", "diff"), "features": ("export", "import")}
"""Commands that have commands below them."""


def test_no_option_comes_or_goes_by_accident() -> None:
    found = [f"{command} {option}" for command, option in list_options(build_app())]
    assert found == (Path(__file__).parent / "options.txt").read_text().splitlines()


def test_the_list_of_commands_says_what_each_commands_own_help_says() -> None:
    for commands in COMMANDS.values():
        for name, summary in commands.items():
            own = build_app(called=name)[name]
            assert own.help.splitlines()[0] == summary


@pytest.mark.parametrize(
    "command", [*command_names(), *(f"{group} {command}" for group, commands in GROUPS.items() for command in commands)]
)
def test_the_help_of_a_command_fits_a_screen_and_has_an_example(command: str) -> None:
    """80 columns and 50 lines; exit codes are in `repro --help` alone."""
    printed = io.StringIO()
    app = build_app(command.split()[0])
    app.help_formatter, app.help_format = DefaultFormatter(), "markdown"
    app([*command.split(), "--help"], console=Console(file=printed, width=80), result_action="return_value")
    lines = printed.getvalue().splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 80
    example = "repro ak_full" if command == "run" else f"repro {command}"
    # A group's help is replaced by its line in the list of commands once an app has listed it in this process.
    assert command in GROUPS or any(line.startswith(f"Example: {example}") for line in lines)
    assert "Exit codes" not in printed.getvalue()


def test_help_off_a_terminal_is_plain_text() -> None:
    for words in (["run", "--help"], ["--help"], []):
        text = run_repro(*words).out
        assert text.isprintable() or all(line.isprintable() and line == line.rstrip() for line in text.splitlines())
        assert not set(text) & set("╭│─\x1b")
        assert len(re.findall("^  .*(precision|list)", text, re.MULTILINE)) >= 1
