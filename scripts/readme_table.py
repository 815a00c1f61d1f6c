"""Write README's table of rows from the configs: `python scripts/readme_table.py`. A test checks that it is up to date."""

from pathlib import Path

from repro.judge.expected import load_expected, table_path
from repro.table.rows import load_row, row_names

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- rows -->\n", "<!-- end of rows -->\n"
METRICS = {"map_micro": "mAP (micro)", "top1": "accuracy"}


def table() -> str:
    lines = [
        "| setting | backbone | metric | published | measured | our command | the release's command |",
        "|---|---|---|---|---|---|---|",
    ]
    expected = {line.row: line for line in load_expected(table_path())}
    for name in row_names():
        row, line = load_row(name), expected[name]
        setting, column = row.title.split(": ")
        assert row.published is not None
        lines.append(
            f"| {setting} | {column} | {METRICS[row.metric]} | {line.published:.{line.digits}f} | not run "
            f"| `repro {name}` | `{row.published.command}` |"
        )
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return `text` with the table between the two markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
