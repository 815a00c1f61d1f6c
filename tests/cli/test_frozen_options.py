"""The command line is frozen: a new verb or option, or one that goes, is a decision that changes options.txt too."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from repro.cli.app import VERBS, build_app, locate_verb, verb_names


def listed_options(app: App, name: str) -> Iterator[str]:
    """Yield `verb --option` and `verb ARGUMENT` for a verb and the verbs below it."""
    if app.default_command is None:
        for below in app:
            if not below.startswith("-"):
                yield from listed_options(app[below], f"{name} {below}")
        return
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.parse and argument.show:
            yield from (f"{name} {option}" for option in argument.names)


GROUPS = {"data": "data_status", "features": "features_export"}
"""Verbs that have verbs below them, with the function of one."""


def test_no_option_comes_or_goes_by_accident() -> None:
    app = build_app()
    found = [line for name in verb_names() for line in listed_options(app[name], name)]
    assert found == (Path(__file__).parent / "options.txt").read_text().splitlines()


def test_the_list_of_commands_says_what_each_commands_own_help_says() -> None:
    for verbs in VERBS.values():
        for name, summary in verbs.items():
            own = build_app(called=name)[name]
            assert own.help.splitlines()[0] == summary


def test_every_command_has_an_example() -> None:
    for name in verb_names():
        module = importlib.import_module(locate_verb(name)[0])
        verb = (
            getattr(module, GROUPS[name])
            if name in GROUPS
            else getattr(module, "list_rows" if name == "list" else name)
        )
        example = "repro ak_full" if name == "run" else f"repro {name}"
        assert f"Example: `{example}" in verb.__doc__
