"""`repro fetch`: bring what rows need, from their publishers or from this machine, or list what can be fetched."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.cli.options import COMMON, CommonOptions, FlagOption, load_requested_rows
from repro.core import LazyModule
from repro.core.config import is_config_path
from repro.core.console import Reporter, format_columns, print_line, print_lines, wrap_words
from repro.core.disk import format_size
from repro.core.errors import Exit, MissingError, ReproError, UsageError, find_nearest
from repro.core.hashing import FileHashes
from repro.core.remote_file import fetch_command
from repro.core.workspace import Workspace, quiet_libraries
from repro.fetch.catalogue import Asset, list_assets
from repro.table.requirements import MissingItem, missing_of_rows
from repro.table.row import Row, row_backbone
from repro.table.rows import extra_names, is_smoke_row, row_names

# Imports huggingface_hub, which reads at import what quiet_libraries sets.
if TYPE_CHECKING:
    from repro.fetch import bring
else:
    bring = LazyModule("repro.fetch.bring")

COMPLETE = "there"
"""What --json has of an asset that is in the workspace as a whole."""


def fetch(
    *names: str,
    accept_license: FlagOption = False,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    no_prepare: FlagOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Bring checkpoints and data sets: download, verify, unpack and audit them.

    Prints licences and sizes, and downloads nothing without --accept-license. Programs and disk space are checked before the
    first byte. Rerun the command to resume. Data sets that must be requested from their publishers are named, and the rest is
    brought; then the exit code is 4. Without a name, lists what can be fetched. HF_TOKEN is used if the Hugging Face Hub asks
    for a token.

    Example: `repro fetch ucf_hmdb --accept-license`, or `repro fetch svd_xt`

    Args:
        names: Rows, backbones and data sets; all: everything that the 24 rows need.
        accept_license: Confirm that you have read and accept the licences (run without it to see them).
        from_: File, folder or address that has the files, instead of their publisher; they are verified all the same.
        no_prepare: Only download and verify; unpack and audit no data set.
    """
    workspace = common.open_workspace()
    known = list_assets(workspace)
    if not names:
        if from_ is not None or no_prepare:
            raise UsageError("--from and --no-prepare need the name of what to fetch (`repro fetch` lists the names)")
        _print_assets(known, workspace, as_json=common.as_json)
        return Exit.OK
    rows, chosen = _resolve_names(names, known, workspace)
    # A file can only be one asset's; a folder, or an address that ends in /, may have those of all.
    if from_ is not None and len(chosen) > 1 and not (Path(from_).expanduser().is_dir() or from_.endswith("/")):
        raise UsageError(
            f"--from {from_}: {len(chosen)} things are to be fetched: name a folder that has all their files"
        )
    quiet_libraries()
    hashes, reporter = FileHashes(workspace.hashes), Reporter(to_stderr=common.as_json)
    needs = bring.list_needs(chosen, from_, hashes, prepare=not no_prepare)
    _print_terms(needs, reporter, accepted=accept_license)
    new = [need for need in needs if need.files]
    # Everything that can be refused is refused before the first byte: a download takes hours.
    try:
        bring.require_possible(needs, from_, hashes)
    except ReproError as problem:
        if accept_license or not new:
            raise
        reporter.warn(str(problem))
    if new and not accept_license:
        requested = [need for need in needs if need.is_requested]
        command = fetch_command(shlex.join(dict.fromkeys(names)), workspace, from_) + " --no-prepare" * no_prepare
        raise MissingError(
            f"to accept {'this licence' if len(new) == 1 else 'these licences'} and fetch: {command}",
            [_as_missing(need.asset, "", workspace).as_json() for need in (*new, *requested)],
        )
    workspace.require_writable()
    brought = bring.bring_assets(needs, from_, workspace, hashes, reporter)
    items = [_as_missing(known[name], why, workspace) for name, why in brought.left.items()]
    # A row may also need what is no asset: a Python package.
    items += [item for item in missing_of_rows(rows, workspace) if not item.asset]
    if items:
        _refuse_rest(items, len(needs), reporter)
    if common.as_json:
        report = {
            "files": [asdict(file) | {"path": str(file.path)} for file in brought.files],
            "prepared": {name: [asdict(one) for one in placed] for name, placed in brought.placed.items()},
            "audits": brought.audits,
        }
        print(json.dumps(report, indent=1))
    elif no_prepare:
        print_lines(
            f"next: repro data prepare {need.asset.name}{workspace.command_option}"
            for need in needs
            if need.asset.dataset and not need.asset.unpacked
        )
    else:
        print_lines(f"next: {row.command}{workspace.command_option}" for row in rows)
    return Exit.OK


def _resolve_names(
    names: Sequence[str], known: dict[str, Asset], workspace: Workspace
) -> tuple[list[Row], list[Asset]]:
    """Return the rows among `names`, and every asset that the names mean, each once.

    Raises:
        UsageError: a name is neither asset nor row, or is a row of the smoke job.
    """
    row_words = [name for name in names if name not in known]
    all_rows = {*row_names(), *extra_names(), "all"}
    for name in row_words:
        if name in all_rows or is_smoke_row(name) or is_config_path(name):
            continue
        near = find_nearest(name, [*known, *all_rows])
        raise UsageError(f"unknown row or asset '{name}'{near} (`repro fetch` lists the assets, `repro list` the rows)")
    # What is an asset's name is taken as one: `fetch ucf101` is not a row's.
    rows = load_requested_rows(row_words)
    found = [name for name in names if name in known]
    for row in rows:
        backbone = row_backbone(row)
        found += [
            name for name in (*row.data.datasets, row.backbone, *backbone.missing_inputs(workspace)) if name in known
        ]
    return rows, [known[name] for name in dict.fromkeys(found)]


def _print_terms(needs: "Sequence[bring.Need]", reporter: Reporter, *, accepted: bool) -> None:
    """Print what is to be downloaded and under which licence; addresses on lines of their own, so that they can be copied."""
    new = [need for need in needs if need.files]
    for need in new:
        asset = need.asset
        files = ", ".join(
            f"{asset.path(file)} {need.files[file.file]}, to be renamed and downloaded again ({file.size})"
            if need.files[file.file]
            else f"{file.file} ({file.size})"
            for file in need.missing
        )
        for line in (*_wrap(f"{asset.name}: {files}", reporter), *_wrap(f"  licence: {asset.licence}", reporter)):
            reporter.line(line)
        reporter.line(f"  {asset.licence_url}")
    for need in needs:
        # With the licences accepted, the rest is brought first, and this is printed at the end.
        if need.is_requested and not accepted:
            for line in _wrap(bring.explain_request(need.asset), reporter):
                reporter.line(line)
    if new:
        total = sum(bring.count_remaining(need.asset, file) for need in new for file in need.missing)
        unpacked = sum(bring.count_unpacked(need) for need in needs)
        reporter.line(
            f"{format_size(total)} to download"
            + (f", about {format_size(unpacked)} more once unpacked" if unpacked else "")
        )


def _wrap(text: str, reporter: Reporter) -> list[str]:
    """Break a line between words where a terminal ends; addresses and paths stay whole."""
    return wrap_words(text, max(20, reporter.console.width)) if reporter.console.is_terminal else [text]


def _as_missing(asset: Asset, why: str, workspace: Workspace) -> MissingItem:
    kind = "data" if asset.dataset else "checkpoint"
    return MissingItem(
        what=f"{kind} {asset.name}",
        remedy=why or asset.on_request or f"to bring it: {fetch_command(asset.name, workspace)}",
        size=asset.size,
        licence=asset.licence,
        licence_url=asset.licence_url,
        command=f"repro fetch {asset.name}{workspace.command_option}",
        asset=asset.name,
        path=str(asset.folder),
    )


def _refuse_rest(items: Sequence[MissingItem], requested: int, reporter: Reporter) -> None:
    """Print why assets are not ready, one a line.

    Raises:
        MissingError: always.
    """
    details = [item.as_json() for item in items]
    if requested == 1:
        raise MissingError(items[0].remedy, details)
    for item in items:
        print_lines(_wrap(item.remedy, reporter), to_stderr=True)
    raise MissingError(
        f"{len(items)} of {requested} things are not ready, for the reasons above; the same command resumes", details
    )


def _print_assets(known: dict[str, Asset], workspace: Workspace, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_asset_as_json(asset) for asset in known.values()], indent=1))
        return
    found = {asset.name: _here(asset) for asset in known.values()}
    rows = [
        (asset.name, asset.size.split(",")[0], "yes" if found[asset.name] == COMPLETE else found[asset.name])
        for asset in known.values()
    ]
    print_lines(format_columns([("name", "size", "present"), *rows]))
    reporter = Reporter()
    # Many assets share a licence or a page: each is printed once, its address on a line of its own.
    for title, describe in (
        ("licences", lambda asset: (asset.licence, asset.licence_url)),
        ("from", lambda asset: ("", asset.source)),
    ):
        print_lines(["", title])
        groups: dict[tuple[str, str], list[str]] = {}
        for asset in known.values():
            # By what is printed, not by asset: equal licences are printed once, with the names of all their assets.
            groups.setdefault(describe(asset), []).append(asset.name)
        for (text, address), names in groups.items():
            print_lines(_wrap(f"  {', '.join(names)}", reporter))
            print_lines(_wrap(f"    {text}", reporter) if text else ())
            print_line(f"    {address}")
    print_lines(["", f"to download one to {workspace.root}:", f"  {fetch_command('NAME', workspace)}"])


def _here(asset: Asset) -> str:
    """Say how much of an asset is in the workspace."""
    if asset.unpacked:
        return COMPLETE
    if asset.on_request:
        return "on request"
    if asset.encoder is not None and asset.encoder.is_file():
        return COMPLETE
    there = [file for file in asset.files if asset.path(file).is_file()]
    if len(there) == len(asset.files):
        return "fetched, to be unpacked" if asset.dataset else COMPLETE
    parts = [asset.path(file).with_name(f"{file.file}.part") for file in asset.files]
    # Interrupted downloads resume from these (repro/fetch/download.py).
    started = sum(part.stat().st_size for part in parts if part.is_file())
    found = [f"{len(there)} of {len(asset.files)} files"] if there else []
    return ", ".join([*found, *([f"{format_size(started)} started"] if started else [])]) or "no"


def _asset_as_json(asset: Asset) -> dict[str, object]:
    return {
        "name": asset.name,
        "title": asset.title,
        "size": asset.size,
        "licence": asset.licence,
        "licence_url": asset.licence_url,
        "source": asset.source,
        "on_request": asset.on_request or None,
        "here": _here(asset),
        "files": [
            file.model_dump(include={"file", "hub", "url", "bytes", "sha256", "size"}) | {"path": str(asset.path(file))}
            for file in asset.files
        ],
    }
