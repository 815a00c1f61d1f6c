"""Write expected/smoke from a smoke run in a workspace: `python scripts/make_smoke_golden.py WORKSPACE`.

Runs the job there first. Only after a change that is meant to change its numbers; the commit says which and why.
"""

import platform
import sys
from pathlib import Path

from safetensors.numpy import save_file

from repro import atomic
from repro.features.store import FeatureStore
from repro.keys import file_sha256
from repro.rows import SMOKE_ROWS, load_row
from repro.smoke import golden, job
from repro.terminal import Reporter
from repro.workspace import Workspace

SEEDS = (52, 53)
TOLERANCE = {"top1": 0.01, "map_micro": 0.5}
"""In points; scripts/measure_smoke_tolerance.py measures what they must cover."""


def main() -> None:
    workspace = Workspace(Path(sys.argv[1]).absolute())
    folder = golden.folder()
    if not (folder / "golden.json").is_file():  # the job reads them, whatever they say
        empty = {"clips": {}, "checkpoint_sha256": "", "scores": {}, "tolerance": TOLERANCE, "platform": ""}
        atomic.write_json(folder / "golden.json", empty)
        save_file({}, folder / "features.safetensors")
    reporter = Reporter()
    records = job.run_smoke(workspace, SEEDS, workers=1, reporter=reporter).records

    row = load_row("smoke")
    first = records["smoke"][0]
    store = FeatureStore(
        workspace.features / f"{row.backbone}-{first.features.key}", first.features.key, first.features.identity
    )
    clips = sorted(path.stem for path in (workspace.smoke / "clips").glob("*.mp4"))
    features = {}
    for clip in clips:
        entry = store.read(clip)
        assert entry is not None, clip
        features[clip] = golden.sampled(entry.features[row.features.name])
    with atomic.replacing(folder / "features.safetensors") as partial:
        save_file(features, partial)
    atomic.write_json(
        folder / "golden.json",
        {
            "clips": {clip: file_sha256(workspace.smoke / "clips" / f"{clip}.mp4") for clip in clips},
            "checkpoint_sha256": first.features.identity["checkpoint_sha256"],
            "scores": {
                name: {
                    str(run.seed): {
                        metric: round(100 * run.best_epoch_on_test.scores[metric], 4) for metric in TOLERANCE
                    }
                    for run in records[name]
                }
                for name in SMOKE_ROWS
            },
            "tolerance": TOLERANCE,
            "platform": f"{platform.system()} {platform.machine()}",
        },
    )
    reporter.line(f"wrote {folder}")


if __name__ == "__main__":
    main()
