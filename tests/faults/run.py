"""The long form: `python tests/faults/run.py --lines faults.jsonl` (`make faults`).

Every trial adds a line to the file, and the table in docs/reliability.md is made from all of its lines, so that a run can be ended at
any time, resumed, and added to. The schedule is drawn from the seed: trial N is the same whenever it runs.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS.parent)]  # in place of this folder

from faults import kinds as known  # noqa: E402
from faults.report import write_table  # noqa: E402
from faults.stages import STAGES, Lab, open_lab  # noqa: E402
from faults.trials import Fault, try_eight_processes, try_fault  # noqa: E402


def draw_schedule(lab: Lab, seed: int, kills: int, others: int) -> Iterator[tuple[str, Fault | None]]:
    """Yield stages and faults: kills over all stages in turn, between them every other fault, and None for eight processes at once."""
    draws = random.Random(seed)
    available = known.list_available(lab.machine)
    rounds: list[tuple[str, Fault | None]] = []
    for number in range(kills):
        stage = [*STAGES][number % len(STAGES)]
        rounds.append((stage, available.kills[number // len(STAGES) % len(available.kills)]))
    rest: list[tuple[str, Fault | None]] = []
    for _ in range(others):
        for fault in available.others:
            rest.append((draws.choice(fault.stages or tuple(STAGES)), fault))
        rest.append(("", None))
    # Spread, so that a run that is ended early has some of each.
    step = max(1, len(rounds) // max(1, len(rest)))
    while rounds or rest:
        yield from rounds[:step]
        del rounds[:step]
        if rest:
            yield rest.pop(0)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, default=Path("faults.jsonl"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=66, help=f"trials, of {known.IN_A_ROW} kills each")
    parser.add_argument("--others", type=int, default=6, help="trials of every other fault")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th trial, from the i-th on")
    parser.add_argument("--table", type=Path, default=TESTS.parent / "docs" / "reliability.md")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    bad, done = 0, [line["trial"] for line in read_lines(options.lines)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        lab = open_lab(Path(folder), stack)
        for number, (stage, fault) in enumerate(draw_schedule(lab, options.seed, options.kills, options.others)):
            if number % parts != part - 1 or [options.seed, number] in done:
                continue
            started = time.monotonic()
            draws = random.Random(f"{options.seed} {number}")
            outcome = try_eight_processes(lab) if fault is None else try_fault(lab, stage, fault, draws)
            with options.lines.open("a") as file:
                file.write(json.dumps({"trial": [options.seed, number], **asdict(outcome)}) + "\n")
            bad += bool(outcome.problems)
            print(f"{number:4} {time.monotonic() - started:6.1f} s  {outcome.stage}: {outcome.fault}: "
                  f"{'; '.join(outcome.problems) or 'well'} ({outcome.message})", flush=True)  # fmt: skip
        skipped = known.list_available(lab.machine).skipped
    write_table(options.table, read_lines(options.lines), skipped)
    print(f"{bad} of the trials did not end well" if bad else "every trial ended well")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
