"""Write examples/evidence from a smoke run in a workspace: `python scripts/make_evidence.py WORKSPACE`.

Runs the smoke job first. To be repeated when records, predictions or bundles get another format; older bundles stay readable.
"""

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path

from repro.cli.app import dispatch

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "evidence"
ROWS = ("smoke", "smoke_mean_colour")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path, help="folder with a smoke run")
    workspace = str(parser.parse_args().workspace)
    dispatch(["smoke", "--workspace", workspace])
    bundle = FOLDER / "smoke.zip"
    bundle.unlink(missing_ok=True)
    dispatch(["bundle", *ROWS, "-o", str(bundle), "--workspace", workspace])
    printed = io.StringIO()
    with redirect_stdout(printed):
        dispatch(["check", "--bundle", str(bundle), "--workspace", workspace])
    (FOLDER / "verdict.txt").write_text(printed.getvalue().replace(str(bundle), bundle.name), encoding="utf-8")


if __name__ == "__main__":
    main()
