"""Draw docs/table.svg, the picture in README: `python scripts/readme_picture.py [WORKSPACE]`.

It has the published values, and the means of the runs in a workspace if one is given.
"""

import sys
import tempfile
from pathlib import Path

from repro.core.files import write_bytes
from repro.core.workspace import open_workspace
from repro.report.contents import gather_table
from repro.report.figures import draw_table

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "table.svg"


def render_picture(workspace: Path) -> bytes:
    """Return the picture of a workspace's table; of one without runs it has the published values alone."""
    return draw_table(gather_table(open_workspace(workspace))).render_file("svg")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        write_bytes(PICTURE, render_picture(Path(sys.argv[1] if len(sys.argv) > 1 else empty)))
