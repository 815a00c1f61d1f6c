"""`repro verify`: compare a backbone's features with golden ones, or its ways of computing with each other."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from repro.backbones import comparison
from repro.backbones.config import BackboneConfig
from repro.backbones.extractor import Execution
from repro.backbones.family import Comparison, Deviation, Note, Skipped
from repro.backbones.registry import backbone_names, family_of, load_backbone
from repro.backbones.weights import checkpoint_path, ensure_random_weights, explain_missing_checkpoint
from repro.cli.options import (
    BACKBONE,
    COMMON,
    ON_DEVICE,
    BackboneName,
    BackboneOptions,
    CommonOptions,
    DeviceOptions,
    FlagOption,
    require_number,
)
from repro.core import LazyModule
from repro.core.config import is_config_path
from repro.core.console import Reporter, print_line, print_sentence
from repro.core.errors import Exit, MissingError, NothingToCheckError, ReproError, UsageError
from repro.core.hashing import FileHashes
from repro.core.reading import describe_absence
from repro.table.own import load_own_row
from repro.table.requirements import chosen_device
from repro.table.row import row_backbone
from repro.video.published import VideoError

# A comparison of backbones reads no stored features and no clips of data sets.
if TYPE_CHECKING:
    from repro.features import audit_store
    from repro.pipeline.sharing import recheck
    from repro.video import decoders
else:
    audit_store = LazyModule("repro.features.audit_store")
    recheck = LazyModule("repro.pipeline.sharing.recheck")
    decoders = LazyModule("repro.video.decoders")

TABLE = "{:<20} {:<25} {:>7} {:>7} {:>7} {}"
"""A line of the comparisons, of 80 columns at most."""


def verify(
    backbone: Annotated[BackboneName, Parameter(show_default=False)] = "",
    /,
    *,
    store: FlagOption = False,
    sample: Annotated[int | None, Parameter(validator=require_number("--sample", 1))] = None,
    golden: Path | None = None,
    checkpoint: Path | None = None,
    config: BackboneOptions = BACKBONE,
    video: Path | None = None,
    limit: float = comparison.DEVIATION_LIMIT,
    compute: DeviceOptions = ON_DEVICE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Compare ways of computing features, or features with golden or stored ones; exits 1 if they differ too much.

    A backbone's name alone compares ways of computing on this machine: the fast path with the plain one, one implementation
    with the other, each precision with fp32.

    With --golden, compares features with golden values of the same weights.

    With --store, reads stored features through instead and exits 4 if any file is damaged.

    With --sample, extracts random clips again, with networks compiled as they were, and compares them with stored features;
    says which share of wrong features the sample would have missed.

    Example: `repro verify svd_xt`, or `repro verify svd_xt --sample 59`

    Args:
        backbone: A name from configs/backbones; with --store, a folder of features [default: the workspace's];
            with --sample, the row file of your own clips, or all with stored features if none is named.
        store: Read every stored feature file and pack through, and name each damaged one.
        sample: Number of clips of each data set to extract again.
        golden: Folder of golden windows (repro/backbones/comparison.py describes the files).
        checkpoint: Weights in the published layout [default: the backbone's, in the workspace].
        video: A video whose first frames are the pictures that are compared [default: a rendered clip].
        limit: Largest relative L2 allowed.
    """
    if sample is not None and (store or golden or checkpoint or video):
        raise UsageError("--sample goes without --store, --golden, --checkpoint and --video")
    if store:
        return _verify_store(backbone, common)
    if sample is not None:
        execution = Execution(
            chosen_device(compute.device), compute.batch, decoders.count_spare_cores(), compile=compute.compiled
        )
        return _verify_sample(backbone, config.changes(), sample, limit, execution, common)
    if not backbone:
        raise UsageError("expected a backbone, a name from configs/backbones, --store or --sample N")
    settings, device = load_backbone(backbone, config.changes()), chosen_device(compute.device)
    family, kept = family_of(settings), settings.checkpoint
    if kept is None or not family.verifiable:
        raise UsageError(
            f"backbone {backbone}: nothing to compare: it has no weights of its own, or no plain computation"
        )
    if not limit > 0:
        raise UsageError(f"--limit {limit:g}: expected a number above 0")
    workspace = common.open_workspace()
    path = checkpoint or checkpoint_path(kept, workspace)
    # Speeds are those of a long extraction, which compiles.
    compiled = device != "cpu" if compute.compiled is None else compute.compiled
    # Each precision is opened, and says the same of this device: once is enough.
    say = functools.cache(lambda line: print_line(line, to_stderr=True))
    execution = Execution(device, compute.batch, say=say, compile=compiled)
    # A mistyped folder of golden values must leave nothing in the workspace, not even the cache that loading networks makes.
    if golden is not None:
        comparison.list_golden(golden)
    if checkpoint is None and kept.drawn_from_seed is not None and not path.is_file():
        workspace.require_writable()
        ensure_random_weights(settings, family, workspace, lambda warning: None)
    if golden is not None:
        deviations = family.verify_against_golden(settings, path, golden, execution)
        return _print_deviations(backbone, settings, path, deviations, limit, as_json=common.as_json)
    missing = "" if checkpoint else explain_missing_checkpoint(settings, workspace)
    if missing:
        raise MissingError(missing)
    if video is not None and not video.is_file():
        raise UsageError(f"--video {video}: no such file")
    comparisons = family.compare_ways(settings, path, execution, limit, video)
    usual = settings.axes().usual.name
    title = (
        f"{backbone} on {device}, a window of {settings.frames.window} frames: relative L2 at the worst cell and at the usual "
        f"one, {usual}, which rows read"
    )
    try:
        rows, above, fastest = _print_comparisons(comparisons, title, usual, as_json=common.as_json)
    except VideoError as error:
        raise MissingError(str(error)) from error
    if common.as_json:
        report = {"backbone": backbone, "device": device, "limit": limit, "comparisons": rows, "fastest": fastest}
        print(json.dumps(report, indent=1))
    return Exit.JUDGED_DIFFERENT if above else Exit.OK


def _verify_store(place: str, common: CommonOptions) -> Exit:
    """Read the features in the folder `place`, or all of the workspace, and print each damaged file."""
    workspace = common.open_workspace()
    folder = Path(place) if place else workspace.features
    if place and not folder.is_dir():
        raise MissingError(
            f"{folder}: {describe_absence(folder, 'folder')}: name a folder of stored features, as {workspace.features}"
        )
    files = audit_store.find_feature_files(folder)
    if not files:
        raise NothingToCheckError(f"nothing to check: no stored features in {folder}")
    size, damaged = 0, []
    reporter = Reporter(to_stderr=common.as_json)
    with reporter.progress("verify", len(files)) as advance:
        for checked in audit_store.check_feature_files(files, FileHashes(workspace.hashes)):
            size += checked.size
            if checked.damage:
                damaged.append(checked)
                reporter.warn(f"features {checked.path}: damaged: {checked.damage}")
            advance("")
    if common.as_json:
        report = {
            "folder": str(folder), "files": len(files), "bytes": size,
            "damaged": [{"path": str(one.path), "why": one.damage} for one in damaged],
        }  # fmt: skip
        print(json.dumps(report, indent=1))
    else:
        print_sentence(f"{folder}: {len(files)} files of features, {size / 1e9:.2f} GB read, {len(damaged)} damaged")
        if damaged:
            print_sentence(
                "run the row or `repro extract` again: damaged files are renamed and their clips extracted again"
            )
    return Exit.MISSING if damaged else Exit.OK


def _verify_sample(
    backbone: str, changes: Mapping[str, str], count: int, limit: float, execution: Execution, common: CommonOptions
) -> Exit:
    """Extract `count` random clips a data set again and print how far they are from what is stored."""
    workspace, reporter = common.open_workspace(), Reporter(to_stderr=common.as_json)
    execution = replace(execution, say=reporter.line)
    own = load_own_row(Path(backbone)) if is_config_path(backbone) else None
    if own and changes:
        raise UsageError(f"{backbone}: a row file states its backbone's settings: leave out {', '.join(changes)}")
    chosen = own.backbone if own else backbone
    names = [chosen] if chosen else [n for n in backbone_names() if any(workspace.features.glob(f"{n}-*/*/"))]
    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            config = row_backbone(own) if own else load_backbone(name, changes)
            checks = recheck.recheck_sample(config, count, workspace, execution, reporter, own.dataset if own else None)
        except ReproError as error:
            if backbone:
                raise
            # The others are compared.
            reporter.warn(f"{name}: not compared: {error}")
            continue
        for check in checks:
            wrong = sorted(clip for clip, value in check.deviations.items() if not value <= limit)
            rows.append(
                {
                    "backbone": name, "dataset": check.dataset, "stored": check.stored, "sampled": check.sampled,
                    "compiled": check.compiled,
                    "deviations": {clip: min(value, 1e9) for clip, value in check.deviations.items()},
                    "above_limit": wrong, "failed": dict(check.failed), "most_missed": check.most_missed,
                    "missed": {f"{share:g}": chance for share, chance in check.missed.items()},
                }
            )  # fmt: skip
            for why in check.failed.values():
                reporter.warn(why)
            if not common.as_json:
                _print_sample(rows[-1], limit)
    if not rows:
        raise NothingToCheckError(
            f"nothing to check: no features of clips whose videos are here in {workspace.features}"
        )
    above = any(row["above_limit"] for row in rows)
    if common.as_json:
        print(json.dumps({"device": execution.device, "limit": limit, "checks": rows}, indent=1))
    elif above:
        print_sentence(
            "another device, a reduced precision, or networks compiled for one of the two change features by up to 3e-3: --limit 3e-3 "
            "allows for it"
        )
    return Exit.JUDGED_DIFFERENT if above else Exit.MISSING if any(row["failed"] for row in rows) else Exit.OK


def _print_sample(row: Mapping[str, Any], limit: float) -> None:
    """Print one data set's comparison, and what its sample cannot see."""
    worst, wrong = max(row["deviations"].values(), default=0.0), row["above_limit"]
    print_sentence(
        f"{row['backbone']}, {row['dataset']}: {row['sampled']} of {row['stored']} clips extracted again, worst relative L2 "
        f"{worst:.1e}, {len(wrong)} above {limit:g}{''.join(f', {clip}' for clip in wrong[:3])}"
    )
    missed = ", ".join(f"{float(share):.0%} wrong {chance:.2g}" for share, chance in row["missed"].items())
    print_sentence(
        f"  probability that such a sample has no wrong clip, about (1-p)^{row['sampled']} of a share p: {missed}; up to "
        f"{row['most_missed']} wrong clips ({row['most_missed'] / row['stored']:.1%}) stay unseen with a probability of 5% or more"
    )


def _print_deviations(
    backbone: str, config: BackboneConfig, path: Path, found: Iterator[Deviation | Note], limit: float, *, as_json: bool
) -> Exit:
    """Print the deviation of every golden tensor, and the worst."""
    deviations = []
    for deviation in found:
        if isinstance(deviation, Note):
            print_line(deviation.text, to_stderr=True)
            continue
        deviations.append(deviation)
        if not as_json:
            mark = "" if deviation.relative_l2 <= limit else "  ABOVE THE LIMIT"
            print_line(f"{deviation.file:<28} {deviation.tensor:<20} {deviation.relative_l2:.2e}{mark}", flush=True)
    # The implementation is named, because `auto` depends on what is installed.
    implementation = family_of(config).resolve_implementation(config)
    worst = max(deviations, key=lambda d: d.relative_l2)
    above = sum(d.relative_l2 > limit for d in deviations)
    if as_json:
        report = {
            "backbone": backbone,
            "implementation": implementation,
            "limit": limit,
            "above_limit": above,
            "deviations": [
                {"file": d.file, "tensor": d.tensor, "relative_l2": min(d.relative_l2, 1e9)} for d in deviations
            ],
        }
        print(json.dumps(report, indent=1))
    else:
        print_sentence(
            f"{', '.join(filter(None, (backbone, implementation)))}: {len(deviations)} tensors, worst {worst.relative_l2:.2e} "
            f"({worst.file} {worst.tensor}), {above} above {limit:g}"
        )
        # Other weights or another size change features completely; another library or device does not.
        if worst.relative_l2 > 0.1:
            print_line(
                f"deviations this large suggest that the golden values were computed with other weights than {path} or other "
                "settings: pass those with --checkpoint and --set"
            )
    return Exit.JUDGED_DIFFERENT if above else Exit.OK


def _print_comparisons(
    found: Iterator[Comparison | Skipped | Note], title: str, usual: str, *, as_json: bool
) -> tuple[list[dict[str, str | float | None]], int, str]:
    """Print each comparison as it is computed, unless `as_json`; those that promise equality are held to their limit.

    Returns:
        The comparisons as --json prints them, how many are above their limit, and the fastest precision that is near fp32 at
        the cell `usual`, which rows read.
    """
    rows: list[dict[str, str | float | None]] = []
    precisions: list[Comparison] = []
    above = 0
    for one in found:
        if isinstance(one, Note):
            print_line(one.text, to_stderr=True)
            continue
        if not rows and not as_json:  # weights that cannot be used are an error without a table
            print_sentence(title)
            print_line(TABLE.format("what", "against", "worst", "usual", "seconds", "verdict"))
        if isinstance(one, Skipped):
            rows.append({"what": one.what, "skipped": one.why})
            if not as_json:
                print_sentence(f"{one.what:<20} skipped: {one.why}", indent=21)
            continue
        # `not <=` rather than `>`, so that NaN counts as above the limit.
        if one.precision is not None:
            precisions.append(one)
        off = one.expected is not None and not one.worst <= one.expected
        above += off
        verdict = "not judged" if one.expected is None else "ABOVE THE LIMIT" if off else "equal"
        rows.append(
            {
                "what": one.what, "against": one.against, "worst_relative_l2": min(one.worst, 1e9),
                "worst_cell": one.cell, "seconds": round(one.seconds, 3), "verdict": verdict,
                "usual_relative_l2": None if one.usual is None else min(one.usual, 1e9),
            }
        )  # fmt: skip
        if not as_json:
            near = "" if one.usual is None else f"{one.usual:.1e}"
            short = {"not judged": "no limit", "ABOVE THE LIMIT": "ABOVE"}.get(verdict, verdict)
            print_line(
                TABLE.format(one.what, one.against, f"{one.worst:.1e}", near, f"{one.seconds:.1f}", short), flush=True
            )
    return rows, above, _print_fastest(precisions, usual, as_json=as_json)


def _print_fastest(precisions: list[Comparison], usual: str, *, as_json: bool) -> str:
    """Print and return the fastest precision, fp32 included, that is within the limit of fp32 at the cell `usual`."""
    # A deviation that is NaN or infinite is not below the limit.
    # Not the worst cell: rows read the usual one, and other cells may be far off in a precision that serves them.
    near = [one for one in precisions if one.usual is not None and one.usual < comparison.USUAL_LIMIT]
    fastest = min(near, key=lambda one: one.seconds, default=None)
    exact = precisions[0].fp32_seconds if precisions else None
    if fastest is None or fastest.precision is None or (exact is not None and exact <= fastest.seconds):
        name, seconds = "fp32", exact
    else:
        name, seconds = fastest.precision, fastest.seconds
    if not as_json and seconds is not None:
        against = "" if name == "fp32" or exact is None else f", fp32 {exact:.2f} s"
        print_sentence(
            f"fastest precision within {comparison.USUAL_LIMIT:g} of fp32 at {usual}: {name} ({seconds:.2f} s{against})"
        )
    return name
