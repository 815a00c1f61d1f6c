"""The table of docs/reliability.md, made from the lines of a file that trials were added to."""

import signal
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
    rows = [f"{len(lines)} trials, {sum(map(_count_kills, lines))} SIGKILLs.", ""]
    rows += ["| fault | trials | met a running command | ended well at once | ended well when run again | not |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    rows += [_describe(fault, by_fault[fault]) for fault in sorted(by_fault)]
    rows += ["", "| stage | SIGKILLs | other faults | not well |", "|---|---|---|---|"]
    stages = Counter(line["stage"] for line in lines)
    for stage in sorted(stages):
        own = [line for line in lines if line["stage"] == stage]
        others = sum(not line["fault"].startswith("SIGKILL") for line in own)
        rows.append(f"| {stage} | {sum(map(_count_kills, own))} | {others} | {_count_bad(own)} |")
    if skipped:
        rows += [
            "",
            "Not tried on that machine: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + ".",
        ]
    return "\n".join(rows) + "\n"


def _describe(fault: str, lines: Sequence[Mapping[str, Any]]) -> str:
    met = sum(map(_has_met, lines))
    well = sum(not line["problems"] and set(line["codes"]) <= {0} for line in lines)
    bad = _count_bad(lines)
    return f"| {fault} | {len(lines)} | {met} | {well} | {len(lines) - well - bad} | {bad} |"


def _has_met(line: Mapping[str, Any]) -> bool:
    # A kill at an operation that a command did not come to leaves it as it was.
    return line["struck"] and (not line["fault"].startswith("SIGKILL") or _count_kills(line) > 0)


def _count_kills(line: Mapping[str, Any]) -> int:
    return line["codes"].count(-signal.SIGKILL) if line["fault"].startswith("SIGKILL") else 0


def _count_bad(lines: Iterable[Mapping[str, Any]]) -> int:
    return sum(bool(line["problems"]) for line in lines)
