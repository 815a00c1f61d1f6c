"""Checks of what a row needs: data sets and their audits, checkpoints and their hashes. Nothing large is read."""

from collections.abc import Iterator

from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.text_files import TEXT_ENCODER
from repro.core.errors import ReproError
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts
from repro.fetch.catalogue import Asset, list_assets
from repro.fetch.file_state import read_origin
from repro.plan.doctor.finding import Finding, Subject
from repro.plan.workspace_state import WorkspaceState
from repro.table.row import row_backbone, row_datasets


def check_missing(subject: Subject) -> Iterator[Finding]:
    """Report each missing thing, with the command that brings it."""
    if subject.imported:
        yield Finding("features", "ok", "all features were imported: `repro readout` needs no video, checkpoint or GPU")
    for item in subject.missing:
        if item.command:
            what = f"not at {item.path} ({', '.join(filter(None, (item.size, item.licence)))})"
            yield Finding(item.what, "fail", what, f"run `{item.command}`")
        else:
            yield Finding(item.what, "fail", item.remedy)


def check_data(subject: Subject) -> Iterator[Finding]:
    """Report which data sets are present, and whether `repro data audit` has decoded their clips."""
    workspace = subject.workspace
    if subject.row is None:
        known = [asset for asset in list_assets(workspace).values() if asset.dataset]
        present = [asset.name for asset in known if asset.unpacked]
        yield Finding(
            "data",
            "ok",
            f"{len(present)} of {len(known)} data sets are present" + (f": {', '.join(present)}" if present else ""),
        )
        return
    if subject.imported:
        return
    state = WorkspaceState(workspace, [subject.row])
    for name, config in row_datasets(subject.row).items():
        if not config.missing_parts(workspace.data / config.folder):
            clips = state.audited_clips(name)
            yield judge_audit(name, clips, f"repro data audit {name}{workspace.command_option}")
    for problem in state.problems:
        yield Finding("data", "warn", problem)


def judge_audit(name: str, clips: dict[str, ClipFacts], command: str) -> Finding:
    """Judge the audit of a data set by what it found of each clip; empty if its files were not audited."""
    faulty = [clip.id for clip in clips.values() if clip.error]
    if not clips:
        return Finding(
            f"data {name}", "warn", "present, not audited: damaged clips would show up during a run", f"run `{command}`"
        )
    if faulty:
        what = f"{len(faulty)} of {len(clips)} clips do not decode completely, as {faulty[0]}"
        return Finding(f"data {name}", "warn", what, "fetch them again, or use what decodes with --allow-damaged")
    return Finding(f"data {name}", "ok", f"{len(clips)} clips, all decoded by an audit")


def check_checkpoints(subject: Subject) -> Iterator[Finding]:
    """Compare the sizes of present checkpoints, and their recorded hashes, with the published ones."""
    workspace, row = subject.workspace, subject.row
    wanted = None if row is None else {row.backbone}
    config = None if row is None else row_backbone(row)
    if wanted is not None and isinstance(config, SvdConfig) and config.conditioning.texts:
        wanted.add(TEXT_ENCODER)
    assets = [asset for asset in list_assets(workspace).values() if asset.dataset is None]
    chosen = [asset for asset in assets if wanted is None or asset.name in wanted]
    findings = [finding for asset in chosen for finding in judge_checkpoint(asset, workspace)]
    if row is None and not findings:
        findings = [Finding("checkpoints", "ok", f"none of {len(assets)} is present")]
    yield from findings


def judge_checkpoint(asset: Asset, workspace: Workspace) -> Iterator[Finding]:
    """Yield a line for each present file of a checkpoint."""
    again = f"rename it, then run `{fetch_command(asset.name, workspace)}`"
    for file in asset.files:
        path = asset.encoder or asset.path(file)
        if not path.is_file():
            continue
        name = f"checkpoint {asset.name}"
        size, origin = path.stat().st_size, read_origin(path)
        # An encoder is cut from the published file, whose size and hash are not its own.
        published_size = None if asset.encoder else file.bytes
        if published_size not in (None, size):
            yield Finding(name, "fail", f"{path} has {size} bytes, expected {published_size}", again)
            continue
        try:
            known = FileHashes(workspace.hashes).known(path)
        except (OSError, ReproError) as error:
            yield Finding(name, "fail", f"{path} cannot be read: {error}", again)
            continue
        expected = _expected_sha256(asset, file, origin)
        if known is not None and expected is not None and known != expected:
            yield Finding(name, "fail", f"{path} has sha256 {known[:12]}..., expected {expected[:12]}...", again)
        elif known is not None:
            yield Finding(name, "ok", f"{path}, sha256 {known[:12]}... as {'expected' if expected else 'recorded'}")
        elif origin.get("sha256") == expected and expected is not None:
            yield Finding(name, "ok", f"{path}, size as published, sha256 compared when it was fetched")
        else:
            yield Finding(
                name, "warn", f"{path}: its sha256 was never compared", f"run `{fetch_command(asset.name, workspace)}`"
            )


def _expected_sha256(asset: Asset, file: RemoteFile, origin: dict[str, object]) -> str | None:
    recorded = origin.get("sha256")
    if asset.encoder is None and file.sha256 is not None:
        return file.sha256
    return str(recorded) if recorded else None
