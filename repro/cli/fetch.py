"""`repro fetch`: what can be fetched as a table or JSON; or what was named, fetched."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from repro.core.console import Reporter, Terminal, sized
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace, quiet_libraries
from repro.fetch.bring import Brought, bring, standing
from repro.fetch.catalogue import Asset, assets
from repro.fetch.encoder import bring_encoder, encoder_standing
from repro.table import rows
from repro.table.row import row_backbone, row_datasets


def show(names: Sequence[str], place: str | None, workspace: Workspace, *, agreed: bool, as_json: bool) -> Exit:
    """Fetch what is named, or say what can be.

    Raises:
        MissingError: a licence not agreed to; what is given on request alone; what cannot be had.
        UsageError: no such name; a --from that makes no sense.
    """
    known = assets(workspace)
    if not names:
        if place is not None:
            raise UsageError("--from needs the name of what to fetch from there (`repro fetch` shows the names)")
        _table(known, workspace, as_json=as_json)
        return Exit.OK
    for name in names:
        _require_known(name, known, workspace)
    chosen = [known[name] for name in dict.fromkeys(names)]
    if place is not None and len(chosen) > 1:
        raise UsageError("--from names a place for one thing: fetch them one by one")
    hashes, reporter = FileHashes(workspace.hashes), Reporter(to_stderr=as_json)
    for asset in chosen:
        if asset.unpacked:
            reporter.line(f"{asset.name}: there, unpacked in {asset.unpacked}")
    chosen = [asset for asset in chosen if not asset.unpacked]
    _require_given_freely(chosen)
    if not agreed:
        _require_nothing_new(chosen, place, hashes, workspace)
    quiet_libraries()
    if chosen:
        workspace.require_writable()
    brought = []
    for asset in chosen:
        for file in asset.files:
            one = bring if asset.encoder is None else bring_encoder
            brought.append(one(asset, file, place, hashes, reporter))
            reporter.line(_sentence(brought[-1]))
        if asset.then:
            reporter.line(f"{asset.name}: now {asset.then}")
    if as_json:
        print(json.dumps([asdict(b) | {"path": str(b.path)} for b in brought], indent=1))
    return Exit.OK


def _require_known(name: str, known: dict[str, Asset], workspace: Workspace) -> None:
    if name in known:
        return
    if name in (*rows.row_names(), *rows.extra_names()):
        row = rows.load_row(name)
        beside = row_backbone(row).absent_beside(workspace)
        needs = [n for n in (*row_datasets(row), row.backbone, *beside) if n in known]
        raise UsageError(f"'{name}' is a row: it needs {' and '.join(needs)}, which `repro fetch` takes by these names")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"'{name}' is nothing to fetch{hint} (there is {', '.join(known)})")


def _require_given_freely(chosen: Sequence[Asset]) -> None:
    for asset in chosen:
        if asset.on_request:
            raise MissingError(f"{asset.name} cannot be fetched ({asset.licence}): {asset.on_request}")


def _require_nothing_new(chosen: Sequence[Asset], place: str | None, hashes: FileHashes, workspace: Workspace) -> None:
    """Without agreement to the licences, only what is there may be named."""
    terms = []
    for asset in chosen:
        lacking = [_lacking(asset, file, hashes) for file in asset.files]
        if any(lacking):
            terms.append(
                f"{asset.name}: {', '.join(filter(None, lacking))}, licence: {asset.licence}, {asset.licence_url}"
            )
    if terms:
        command = fetch_command(" ".join(asset.name for asset in chosen), workspace, place)
        raise MissingError(f"{'; '.join(terms)}; to agree and fetch: {command}")


def _lacking(asset: Asset, file: RemoteFile, hashes: FileHashes) -> str:
    """ "" where nothing is lacking."""
    if asset.encoder is not None and encoder_standing(asset, file, hashes).good:
        return ""
    found = standing(asset.path(file), file, hashes)
    if found.wrong:
        return f"{asset.path(file)} {found.wrong}, to be set aside and fetched anew ({file.size})"
    return "" if found.there else f"{file.file} ({file.size})"


def _sentence(brought: Brought) -> str:
    if brought.sha256 is None:
        judged = "not verified: no checksum is published and none was recorded"
    else:
        known = "recorded: it was cut here" if brought.means == "cut" else "recorded: none is published"
        judged = f"sha256 {brought.sha256}, " + ("as published" if brought.published else known)
    return f"{brought.path}: {brought.means}, {sized(brought.bytes)}, {judged}"


def _table(known: dict[str, Asset], workspace: Workspace, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_entry(asset) for asset in known.values()], indent=1))
        return
    console = Terminal(highlight=False)
    if not console.is_terminal:
        console = Terminal(highlight=False, width=200)  # a pipe has no width to fit into
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "size", "licence", "from", "here"):
        table.add_column(column, overflow="fold")
    for asset in known.values():
        table.add_row(asset.name, asset.size, f"{asset.licence} ({asset.licence_url})", asset.source, _here(asset))
    console.print(table)
    console.print(f"to bring one to {workspace.root}: {fetch_command('NAME', workspace)}", soft_wrap=True)


def _here(asset: Asset) -> str:
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
    begun = sum(part.stat().st_size for part in parts if part.is_file())
    words = [f"{len(there)} of {len(asset.files)} files"] if there else []
    return ", ".join([*words, *([f"{sized(begun)} begun"] if begun else [])]) or "no"


def _entry(asset: Asset) -> dict[str, object]:
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
