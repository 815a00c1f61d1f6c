"""The table of docs/reliability.md, made from the lines of a file that trials were added to."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


def write_table(page: Path, lines: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> None:
    """Replace what is between the two marks of a page."""
    text = page.read_text()
    before, rest = text.split(BEGIN + "\n", 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{make_table(lines, skipped)}{END}{after}")


def make_table(lines: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> str:
    """Return what was tried, by fault and by stage, as Markdown."""
    by_fault: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_fault[line["fault"]].append(line)
    kills = [line for line in lines if line["fault"].startswith("SIGKILL") and line["struck"]]
    rows = [f"{len(lines)} trials, {len(kills)} SIGKILLs.", ""]
    rows += ["| fault | trials | met a running command | ended well at once | ended well when run again | not |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    rows += [_describe(fault, by_fault[fault]) for fault in sorted(by_fault)]
    rows += ["", "| stage | SIGKILLs | other faults | not well |", "|---|---|---|---|"]
    stages = Counter(line["stage"] for line in lines)
    for stage in sorted(stages):
        own = [line for line in lines if line["stage"] == stage]
        killed = sum(line in kills for line in own)
        rows.append(f"| {stage} | {killed} | {len(own) - killed} | {_count_bad(own)} |")
    if skipped:
        rows += [
            "",
            "Not tried on that machine: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + ".",
        ]
    return "\n".join(rows) + "\n"


def _describe(fault: str, lines: Sequence[Mapping[str, Any]]) -> str:
    met = sum(line["struck"] for line in lines)
    well = sum(not line["problems"] and set(line["codes"]) <= {0} for line in lines)
    bad = _count_bad(lines)
    return f"| {fault} | {len(lines)} | {met} | {well} | {len(lines) - well - bad} | {bad} |"


def _count_bad(lines: Iterable[Mapping[str, Any]]) -> int:
    return sum(bool(line["problems"]) for line in lines)
