"""Run a notebook's code in this process and store its output: `python scripts/run_notebook.py examples/quickstart.ipynb`.

Printed text and figures are stored; warnings and progress on stderr are not, as they have times and paths of a machine.
"""

import base64
import io
import json
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt

DPI = 60
"""Of stored figures, so that the notebook stays small."""


def run_cells(path: Path) -> list[list[dict[str, Any]]]:
    """Run the code cells of a notebook in its folder, in one namespace; return the outputs of each."""
    found: list[list[dict[str, Any]]] = []
    cells = read_code_cells(json.loads(path.read_text()))
    names: dict[str, Any] = {"__name__": "__main__"}
    before = plt.get_backend()
    plt.switch_backend("Agg")  # draws without a screen
    try:
        # What the notebook adds to the places of modules is its own.
        with chdir(path.parent), mock.patch.object(sys, "path", [*sys.path]), mock.patch.dict("os.environ"):
            for number, cell in enumerate(cells, 1):
                outputs: list[dict[str, Any]] = []
                printed = io.StringIO()
                with (
                    redirect_stdout(printed),
                    mock.patch.object(plt, "show", lambda to=outputs: to.extend(take_figures())),
                ):
                    exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)  # noqa: S102
                if text := printed.getvalue():
                    outputs.insert(
                        0, {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
                    )
                found.append(outputs)
    finally:
        plt.close("all")
        plt.switch_backend(before)
    return found


def take_figures() -> list[dict[str, Any]]:
    """Return the open figures as a notebook's outputs, and close them."""
    outputs = []
    for number in plt.get_fignums():
        figure, picture = plt.figure(number), io.BytesIO()
        # Without matplotlib's version, which says nothing of the figure.
        figure.savefig(picture, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": [str(figure)]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return outputs


def read_code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def store_outputs(path: Path) -> None:
    """Run a notebook and store what it gives in it."""
    outputs, notebook = run_cells(path), json.loads(path.read_text())
    for number, (cell, found) in enumerate(zip(read_code_cells(notebook), outputs, strict=True), 1):
        cell.update(execution_count=number, outputs=found)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    store_outputs(Path(sys.argv[1]))
