"""Write expected/smoke from a smoke run in a workspace: `python scripts/make_smoke_golden.py WORKSPACE`.

Runs the smoke job first. Use it only after a change that is meant to change numbers; the commit says which and why.
"""

import argparse
import platform
from pathlib import Path

from safetensors.numpy import save_file

from repro.core.console import Reporter
from repro.core.files import replacing_file, write_json
from repro.core.workspace import Workspace
from repro.smoke import golden, job
from repro.table.rows import load_row, smoke_row_names

SEEDS = (52, 53)
TOLERANCE = {"top1": 0.01, "map_micro": 0.5}
"""In points. scripts/measure_smoke_tolerance.py measures what they must cover."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path, help="folder with a smoke run")
    workspace = Workspace(parser.parse_args().workspace.absolute())
    folder = golden.golden_folder()
    reporter = Reporter()
    made = job.run_stages(workspace, SEEDS, workers=1, reporter=reporter)
    cell = load_row("smoke").features.name
    features = {}
    for clip in sorted(made.clips):
        entry = made.features.read_clip(clip)
        assert entry is not None, clip
        features[clip] = golden.select_tokens(entry.features[cell])
    with replacing_file(folder / "features.safetensors") as partial:
        save_file(features, partial)
    write_json(
        folder / "golden.json",
        {
            "clips": dict(sorted(made.clips.items())),
            "checkpoint_sha256": made.checkpoint_sha256,
            "scores": {
                name: {
                    str(run.seed): {
                        metric: round(100 * run.best_epoch_on_test.scores[metric], 4) for metric in TOLERANCE
                    }
                    for run in made.records[name]
                }
                for name in smoke_row_names()
            },
            "tolerance": TOLERANCE,
            "platform": f"{platform.system()} {platform.machine()}",
        },
    )
    reporter.line(f"wrote {folder}")


if __name__ == "__main__":
    main()
