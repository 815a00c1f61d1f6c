"""Damaged and odd clips through both readers and through `repro extract`, from a seed.

    python scripts/fuzz_media.py [--seed 1] [--clips 1000] [--folder FOLDER] [--write]

Ends with 1 if a clip is read otherwise than published, hangs its reader, is not named in one line, or disturbs the run.
`--folder` keeps the clips. tests/builders/fuzzed_media.py makes and judges
them; `make test` runs 40.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from builders.fuzzed_media import LIMIT, Sources, Verdict, fuzz  # noqa: E402
from long_clip import watch_memory  # noqa: E402

RELIABILITY = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- media -->\n", "<!-- end of media -->\n"
NUMBERED = re.compile(r"\d{5}_")


def extract_folder(folder: Path, verdicts: list[Verdict]) -> tuple[list[str], dict[str, float]]:
    """Run `repro extract` on the clips.

    Returns:
        What is wrong, and figures of the run.
    """
    command = [
        sys.executable,
        "-m",
        "repro",
        "extract",
        str(folder / "clips"),
        "--backbone",
        "mean_colour",
        "--device",
        "cpu",
    ]
    command += ["--workspace", str(folder / "workspace"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        peak = watch_memory(process)
    printed, said = (folder / "stdout").read_text(), (folder / "stderr").read_text()
    if process.returncode not in (0, 4) or "Traceback" in said or not printed:
        return [f"repro extract ended with {process.returncode}: {said[-2000:]}"], {}
    faults = []
    found = json.loads(printed)
    failed = {match.group() for clip in found["failed"] if (match := NUMBERED.search(clip))}
    named = {verdict.clip.path.name[:6] for verdict in verdicts if verdict.outcome == "named"}
    read = {verdict.clip.path.name[:6] for verdict in verdicts} - named
    faults += [f"repro extract failed on clip {clip}, which is readable" for clip in sorted(failed & read)]
    figures = {"failed": len(found["failed"]), "extracted": found["extracted"], "peak": peak}
    return faults, figures


def format_table(verdicts: list[Verdict]) -> str:
    """Return the result by alteration, as a table in Markdown."""
    kinds = {verdict.clip.kind: 0 for verdict in verdicts}
    lines = [
        "| what was done to the clip | clips | read as before | read, other frames than before | named | read by decord |",
        "|---|---|---|---|---|---|",
    ]
    for kind in [*sorted(kinds), None]:
        own = [verdict for verdict in verdicts if kind in (None, verdict.clip.kind)]
        outcomes = Counter(verdict.outcome for verdict in own)
        decord = sum(verdict.decord != "named" for verdict in own)
        figures = f"{outcomes['as published']} | {outcomes['changed']} | {outcomes['named']} | {decord}"
        lines.append(f"| {kind or 'together'} | {len(own)} | {figures} |")
    return "\n".join(lines) + "\n"


def describe(verdicts: list[Verdict], sources: Sources, seed: int, figures: dict[str, float]) -> str:
    """Return the section of docs/reliability.md."""
    suffixes = {verdict.clip.path.suffix for verdict in verdicts}
    written = len({verdict.clip.source for verdict in verdicts})
    changed = sum(verdict.outcome == "changed" for verdict in verdicts)
    peak = max(verdict.peak for verdict in verdicts)
    faults = sum(bool(verdict.faults) for verdict in verdicts)
    return (
        f"{BEGIN}Written by `python scripts/fuzz_media.py --seed {seed} --clips {len(verdicts)} --write`.\n\n"
        f"{len(verdicts):,} clips of seed {seed}, from {written} kinds of file in {len(suffixes)} containers: {faults} were read "
        f"otherwise than published, hung for {LIMIT:g} s or went without a reason in one line. {changed} were accepted although "
        "bytes of them were altered so that other frames come: no decoder or container notices, and the frames are those that the "
        f"release reads of the file. A decoding process took at most {peak / 1e6:.0f} MB. `repro extract` on the folder went "
        f"through: {figures.get('extracted', 0):.0f} clips extracted, {figures.get('failed', 0):.0f} named, "
        f"{figures.get('peak', 0) / 1e9:.2f} GB at most for all its processes.\n\n{format_table(verdicts)}{END}"
    )


def write_section(text: str) -> None:
    """Put `text`, between its markers, into docs/reliability.md."""
    before, rest = RELIABILITY.read_text().split(BEGIN)
    RELIABILITY.write_text(before + text + rest.split(END)[1])


def run(folder: Path, options: argparse.Namespace) -> int:
    verdicts, sources = fuzz(folder, options.seed, options.clips)
    faults, figures = extract_folder(folder, verdicts)
    text = describe(verdicts, sources, options.seed, figures)
    print(text)
    for name, why in sources.refused.items():
        print(f"not written by FFmpeg here: {name} ({why})")
    for verdict in verdicts:
        faults += [f"{verdict.clip.path.name} ({', '.join(verdict.clip.altered)}): {fault}" for fault in verdict.faults]
    print(*faults, sep="\n")
    if options.write:
        write_section(text)
    return bool(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True)
        return run(options.folder, options)
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), options)


if __name__ == "__main__":
    sys.exit(main())
