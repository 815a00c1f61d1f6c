"""Write docs/licences.md, the licences of all packages of the lock, from their metadata: `python scripts/list_licences.py`.

Packages that are not installed here, such as those of the CUDA build, keep the line they have.
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of the packages that are installed

Written by `scripts/list_licences.py` from the packages' own metadata; "not stated" means that these say nothing.

| package | version | licence |
|---|---|---|
"""
INSTALLED = ("runtime", "torch", "efficientnet", "dev")
"""Locks whose packages `scripts/venv.sh` installs. Those of CUDA and of the fork are only in images."""


def locked_packages() -> Iterator[tuple[str, str]]:
    """Yield name and version of every package of the locks."""
    seen = set()
    for lock in INSTALLED:
        for line in (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines():
            if (found := re.match(r"([A-Za-z0-9_.-]+)==([^ ;\\]+)", line)) and found[1] not in seen:
                seen.add(found[1])
                yield re.sub(r"[-_.]+", "-", found[1]).lower(), found[2]


def describe_licence(name: str) -> str | None:
    """Return a package's licence; None if it is not installed."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return None
    if expression := found.get("License-Expression"):
        return expression
    classified = [
        line.rpartition(" :: ")[2] for line in found.get_all("Classifier", []) if line.startswith("License ::")
    ]
    # Some packages put the complete text there.
    stated = (found.get("License") or "").strip().splitlines()
    return ", ".join(classified) or (stated[0][:60] if stated else "not stated")


def main() -> None:
    before = (
        dict(re.findall(r"^\| ([a-z0-9-]+) \| [^ ]+ \| (.+) \|$", TABLE.read_text(), re.M)) if TABLE.exists() else {}
    )
    lines = [
        f"| {name} | {version} | {describe_licence(name) or before.get(name, 'not installed here')} |"
        for name, version in sorted(locked_packages())
    ]
    TABLE.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
