"""Draw the workflow's rules: `python scripts/workflow_graph.py` writes docs/workflow.svg from `snakemake --rulegraph`.

Needs snakemake and repro on PATH.
"""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, GAP_X, GAP_Y = 90, 30, 30, 30


def read_graph() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the rules by number, and the pairs of which the first comes before the second."""
    with tempfile.TemporaryDirectory() as workspace:
        words = ["snakemake", "--snakefile", ROOT / "workflow" / "Snakefile", "--rulegraph", "dot"]
        config = ["--config", f"workspace={workspace}", "grid=[ucf_hmdb]"]
        dot = subprocess.run([*words, *config], capture_output=True, text=True, check=True).stdout
    rules = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    edges = re.findall(r"(\d+) -> (\d+)", dot)
    # Without those that a longer way replaces: lines would cross rules.
    return rules, [edge for edge in edges if not is_replaced(edge, edges)]


def is_replaced(edge: tuple[str, str], edges: list[tuple[str, str]]) -> bool:
    """Return whether the end of an edge is reached from its start by way of other rules."""
    reached = [after for before, after in edges if before == edge[0] and after != edge[1]]
    for rule in reached:
        reached += [after for before, after in edges if before == rule and after not in reached]
    return edge[1] in reached


def place_rules(rules: dict[str, str], edges: list[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return column and line of each rule: a line below all that come before it."""
    lines = dict.fromkeys(rules, 0)
    for _ in rules:
        for before, after in edges:
            lines[after] = max(lines[after], lines[before] + 1)
    places: dict[str, tuple[int, int]] = {}
    for number in sorted(rules, key=lambda number: (lines[number], rules[number])):
        column = sum(line == lines[number] for _, line in places.values())
        places[number] = column, lines[number]
    return places


def draw_svg(rules: dict[str, str], edges: list[tuple[str, str]]) -> str:
    """Return the picture."""
    places = place_rules(rules, edges)
    corners = {n: (10 + x * (WIDTH + GAP_X), 10 + y * (HEIGHT + GAP_Y)) for n, (x, y) in places.items()}
    width = max(x for x, _ in corners.values()) + WIDTH + 10
    height = max(y for _, y in corners.values()) + HEIGHT + 10
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for before, after in sorted(edges):
        (x1, y1), (x2, y2) = corners[before], corners[after]
        parts.append(
            f'<line x1="{x1 + WIDTH // 2}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH // 2}" y2="{y2}" stroke="#777"/>'
        )
    for number, (x, y) in corners.items():
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef" stroke="#447"/>')
        parts.append(f'<text x="{x + WIDTH // 2}" y="{y + 20}" text-anchor="middle">{rules[number]}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs" / "workflow.svg").write_text(draw_svg(*read_graph()))
