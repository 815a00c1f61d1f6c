"""Look the lock up in the database of known vulnerabilities: `make audit`, or `pip-audit`'s Python with this file.

Ends with 1 if a locked version has a known vulnerability. Says "skipped" if the database knows none of the packages, which means
that it cannot be reached or that the package index has none.
"""

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
LOCKS = ("runtime.txt", "dev.txt", "audit.txt", "efficientnet.txt", "torch.txt", "cuda.txt", "sgm.txt")


def audit_lock(lock: str) -> tuple[int, int, list[str]]:
    """Look up the packages of a lock.

    Returns:
        How many were looked up, how many could not be, and known vulnerabilities, each in a line.
    """
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "-r",
        REQUIREMENTS / lock,
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"audit: {lock}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no answer'}")
        return 0, 1, []
    known = [one for one in found if "vulns" in one]
    lines = [
        f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for one in known
        for vulnerability in one["vulns"]
    ]
    return len(known), len(found) - len(known), lines


def main() -> int:
    results = {lock: audit_lock(lock) for lock in LOCKS}
    looked_up, unknown = (sum(result[place] for result in results.values()) for place in (0, 1))  # type: ignore[misc]
    if not looked_up:
        print(f"audit: skipped: the database of vulnerabilities cannot be reached ({unknown} packages not found in it)")
        return 0
    lines = [f"{lock}: {line}" for lock, (_, _, found) in results.items() for line in found]
    print(
        f"audit: {looked_up} packages looked up, {unknown} not found, {len(lines)} known vulnerabilities",
        *lines,
        sep="\n",
    )
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
