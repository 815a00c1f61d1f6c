"""`repro fetch`: download checkpoints and archives of data sets, or list them."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from repro.cli.options import COMMON, CommonOptions, FlagOption
from repro.core.console import Reporter, format_size, open_table_console
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace, quiet_libraries
from repro.fetch.catalogue import Asset, list_assets
from repro.fetch.file_state import FetchedFile, inspect_encoder, inspect_file
from repro.table import rows
from repro.table.row import row_backbone, row_datasets


def fetch(
    *names: str,
    accept_license: FlagOption = False,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Download checkpoints and data-set archives, and verify them.

    Without a name, lists what can be downloaded. Rerun the command to resume an interrupted download. HF_TOKEN is used
    if the Hugging Face Hub asks for a token.

    Example: `repro fetch svd_xt --accept-license`

    Args:
        names: Names of backbones and data sets.
        accept_license: Confirm that you have read and accept the licence (run without it to see the licence).
        from_: File, folder or address that has the files, instead of their publisher; they are verified all the same.
    """
    workspace = common.open_workspace()
    known = list_assets(workspace)
    if not names:
        if from_ is not None:
            raise UsageError("--from needs the name of what to fetch from there (`repro fetch` lists the names)")
        _print_assets(known, workspace, as_json=common.as_json)
        return Exit.OK
    for name in names:
        _require_known(name, known, workspace)
    chosen = [known[name] for name in dict.fromkeys(names)]
    if from_ is not None and len(chosen) > 1:
        raise UsageError("--from is the place of one asset: fetch them one by one")
    hashes, reporter = FileHashes(workspace.hashes), Reporter(to_stderr=common.as_json)
    for asset in chosen:
        if asset.unpacked:
            reporter.line(f"{asset.name}: already unpacked in {asset.unpacked}")
    chosen = [asset for asset in chosen if not asset.unpacked]
    # Everything that can be refused is refused before the first byte: a download takes hours.
    _require_given_freely(chosen)
    if not accept_license:
        _require_nothing_new(chosen, from_, hashes, workspace)
    quiet_libraries()
    if chosen:
        workspace.require_writable()
    fetched = _fetch_all(chosen, from_, hashes, reporter)
    if common.as_json:
        print(json.dumps([asdict(f) | {"path": str(f.path)} for f in fetched], indent=1))
    return Exit.OK


def _fetch_all(chosen: Sequence[Asset], place: str | None, hashes: FileHashes, reporter: Reporter) -> list[FetchedFile]:
    """Fetch every file of `chosen`, from `place` if it is given; report each."""
    # Imported here because it imports huggingface_hub, after quiet_libraries has set what that reads at import.
    from repro.fetch.encoder import fetch_encoder
    from repro.fetch.fetch_file import fetch_file

    fetched = []
    for asset in chosen:
        fetch_one = fetch_file if asset.encoder is None else fetch_encoder
        for file in asset.files:
            fetched.append(fetch_one(asset, file, place, hashes, reporter))
            reporter.line(_describe_fetched(fetched[-1]))
        if asset.then:
            reporter.line(f"{asset.name}: next, run {asset.then}")
    return fetched


def _require_known(name: str, known: dict[str, Asset], workspace: Workspace) -> None:
    """Refuse a name that is no asset; for a row, name the assets it needs."""
    if name in known:
        return
    if name in (*rows.row_names(), *rows.extra_names()):
        row = rows.load_row(name)
        inputs = row_backbone(row).missing_inputs(workspace)
        needs = [n for n in (*row_datasets(row), row.backbone, *inputs) if n in known]
        raise UsageError(f"'{name}' is a row; fetch what it needs: repro fetch {' '.join(needs)}")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"unknown asset '{name}'{hint} (available: {', '.join(known)})")


def _require_given_freely(chosen: Sequence[Asset]) -> None:
    for asset in chosen:
        if asset.on_request:
            raise MissingError(f"{asset.name} cannot be fetched ({asset.licence}): {asset.on_request}")


def _require_nothing_new(chosen: Sequence[Asset], place: str | None, hashes: FileHashes, workspace: Workspace) -> None:
    """Without --accept-license, refuse assets that would be downloaded; name their licences."""
    terms = []
    for asset in chosen:
        missing = [_what_is_missing(asset, file, hashes) for file in asset.files]
        if any(missing):
            terms.append(
                f"{asset.name}: {', '.join(filter(None, missing))}, licence: {asset.licence}, {asset.licence_url}"
            )
    if terms:
        command = fetch_command(" ".join(asset.name for asset in chosen), workspace, place)
        raise MissingError(f"{'; '.join(terms)}; to accept and fetch: {command}")


def _what_is_missing(asset: Asset, file: RemoteFile, hashes: FileHashes) -> str:
    """Return the file to download with its size, or an empty string if the file is present and as expected."""
    if asset.encoder is not None and inspect_encoder(asset, file, hashes).good:
        return ""
    state = inspect_file(asset.path(file), file, hashes)
    if state.wrong:
        return f"{asset.path(file)} {state.wrong}, to be renamed and downloaded again ({file.size})"
    return "" if state.there else f"{file.file} ({file.size})"


def _describe_fetched(fetched: FetchedFile) -> str:
    """Return one line on a file: how it came, its size, and what its sha256 was compared with."""
    if fetched.sha256 is None:
        judged = "not verified: no checksum is published and none was recorded"
    else:
        known = "recorded: it was cut here" if fetched.means == "cut" else "recorded: none is published"
        judged = f"sha256 {fetched.sha256}, " + ("as published" if fetched.published else known)
    return f"{fetched.path}: {fetched.means}, {format_size(fetched.bytes)}, {judged}"


def _print_assets(known: dict[str, Asset], workspace: Workspace, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_asset_as_json(asset) for asset in known.values()], indent=1))
        return
    console = open_table_console(piped_width=200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "size", "licence", "from", "here"):
        table.add_column(column, overflow="fold")
    for asset in known.values():
        table.add_row(asset.name, asset.size, f"{asset.licence} ({asset.licence_url})", asset.source, _here(asset))
    console.print(table)
    console.print(
        f"to download one to {workspace.root}: {fetch_command('NAME', workspace)}", markup=False, soft_wrap=True
    )


def _here(asset: Asset) -> str:
    """Say how much of an asset is in the workspace."""
    if asset.unpacked:
        return "there"
    if asset.on_request:
        return "on request"
    if asset.encoder is not None and asset.encoder.is_file():
        return "there"
    there = [file for file in asset.files if asset.path(file).is_file()]
    if len(there) == len(asset.files):
        return "there"
    parts = [asset.path(file).with_name(f"{file.file}.part") for file in asset.files]
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
