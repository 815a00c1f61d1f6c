"""Check text against the project's vocabulary: `python scripts/check_words.py PATH ...`.

Documentation, comments, docstrings and messages use the standard terms of the field. This script lists words that
earlier versions of the text used for them, with the term to write instead. Python files: comments, strings and the
parts of names; other files: every line. A hit makes the exit code 1.
"""

import argparse
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

INSTEAD = {
    r"anew": "again",
    r"begun": "started",
    r"beside": "alongside, next to, in addition to",
    r"go(es|ing)? on|went on|taken up again": "resumes, continues",
    r"lack(s|ing)?(?! of)": "has no, missing",
    r"lies|lay in|lie in": "is stored in, is in",
    r"mend(s|ed|ing|able)?|set right": "fix, repair",
    r"owners?['’]s?": "publisher's, original",
    r"reckon(s|ed|ing)?": "estimate, assume",
    r"stands? (in|on|at|for|twice|once|there|beside)": "is in, is listed",
    r"told": "reported, printed",
    r"where there (is|are) none|where there is nothing|\"\" where": "if there is none",
    r"wish(es|ed)?": "request, option",
}
"""Pattern of words to avoid, and what to write instead."""

NAMES = re.compile(r"begun|beside|lacking|mend(ed|able)?|reckon(ed|ing)?|told|wish(ed|es)?")
"""Parts of Python names to avoid."""

SUFFIXES = {".py", ".md", ".sh", ".ipynb", ".yaml", ".yml", ".toml", ".cff", ".def", ""}
TEXT = re.compile("|".join(rf"(?P<g{n}>\b(?:{words})(?!\w))" for n, words in enumerate(INSTEAD)), re.IGNORECASE)


def spoken(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line number, text, whether it is a name) for everything in a file that a person reads as language."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "".join("".join(cell["source"]) + "\n" for cell in json.loads(text)["cells"])
    if path.suffix != ".py":
        yield from ((number, line, False) for number, line in enumerate(text.splitlines(), 1))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line, False
        elif kind == "NAME":
            yield token.start[0], token.string, True


def hits(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, words found, what to write instead)."""
    for number, text, is_name in spoken(path):
        if is_name:
            for part in text.lower().split("_"):
                if NAMES.fullmatch(part):
                    yield number, text, "another name"
            continue
        for match in TEXT.finditer(text):
            assert match.lastgroup is not None
            pattern = next(g for g, value in match.groupdict().items() if value is not None)
            yield number, match[0], list(INSTEAD.values())[int(pattern[1:])]


def files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in SUFFIXES - {""})
        elif path.suffix in SUFFIXES:
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="files, and folders of files")
    found = 0
    for path in files(parser.parse_args().paths):
        if path.name == Path(__file__).name:
            continue
        for number, words, instead in hits(path):
            found += 1
            print(f"{path}:{number}: '{words}': write {instead}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
