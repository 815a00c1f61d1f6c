"""`repro status` shows running commands first, and says of each how far it is or how it ended."""

import json
from pathlib import Path

from builders.commands import run_repro

from repro.core.progress.stages import Measures, Part, Work
from repro.core.progress.status_files import StatusFile


def test_it_shows_what_runs_and_how_others_ended(tmp_path: Path) -> None:
    place = ["status", "--workspace", tmp_path]
    assert run_repro(*place).out == f"no row, grid, extraction or readout has run in {tmp_path}\n"
    assert run_repro(*place, "--json").out == "[]\n"
    work = Work("run ak_full")
    work.expect([("extract", "animal_kingdom, svd_xt"), ("readout", "ak_full, 5 seeds")])
    stage = work.start("extract", "animal_kingdom, svd_xt")
    stage.part = Part("compute", 4000, "clips", measure=lambda: Measures(99, 2, {"features": 0.5}))
    StatusFile(tmp_path / "status", work, "cuda", "12_7").write_if_due()
    other = Work("grid a\x1b[31m")
    other.start("readout", "a")
    ended = StatusFile(tmp_path / "status", other, "cpu")
    ended.end("failed", "3 of 91 cells failed")
    (tmp_path / "status" / "other.json").write_text('{"format": 2}')
    done = run_repro(*place)
    first, second, third, last, stage = done.out.splitlines()
    assert first.startswith("running     run ak_full (")
    assert ", cuda, job 12_7) since 2" in first
    assert second.split("; ")[1:] == ["compute 0 of 4,000 clips", "2 failed", "waiting 50% for features"]
    assert third.strip() == "1 stage to come"
    assert last.startswith("failed      grid a\\x1b[31m (")
    assert last.endswith("; 3 of 91 cells failed")
    assert stage.split(maxsplit=1)[0] == "readout"
    assert [one["state"] for one in json.loads(run_repro(*place, "--json").out)] == ["running", "failed"]
