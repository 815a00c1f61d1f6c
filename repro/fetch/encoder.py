"""Of a large training checkpoint, the encoder is kept, as safetensors, and the file it was cut from is removed.

ENCODER.origin.json notes both hashes; the original's own FILE.origin.json stays, and holds a later download to its sha256.
"""

from datetime import UTC, datetime
from pathlib import Path

from repro.backbones.registry import family_of, load_backbone
from repro.core.console import Reporter, format_size
from repro.core.errors import MissingError
from repro.core.files import lock_file, set_aside, write_json
from repro.core.hashing import FileHashes, file_sha256
from repro.core.remote_file import RemoteFile
from repro.fetch.bring import Brought, Standing, bring, origin_path, read_origin
from repro.fetch.catalogue import Asset


def encoder_standing(asset: Asset, file: RemoteFile, hashes: FileHashes) -> Standing:
    """Hold a kept encoder against what was noted when it was cut, and of what."""
    path = asset.encoder
    if path is None or not path.is_file():
        return Standing(False)
    origin = read_origin(path)
    noted, original = origin.get("sha256"), origin.get("original", {}).get("sha256")
    if noted is None:
        return Standing(True, f"has no {origin_path(path).name} that says what it was cut from")
    if (digest := hashes.sha256(path)) != noted:
        return Standing(True, f"has sha256 {digest}, expected {noted}", noted)
    if file.sha256 not in (None, original):
        return Standing(True, f"was cut from a file with sha256 {original}, expected {file.sha256}", noted)
    return Standing(True, "", noted)


def bring_encoder(asset: Asset, file: RemoteFile, place: str | None, hashes: FileHashes, reporter: Reporter) -> Brought:
    """Make sure of an encoder: verify what is there, else bring the file it is cut from, cut it and remove that file.

    Raises:
        MissingError: it cannot be had, or is not the file expected, or holds another encoder than the config says.
        UsageError: another process is at it; `place` makes no sense; no room.
    """
    target = asset.encoder
    assert target is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    # Around all of it, as several backbones may be readings of one encoder.
    with lock_file(target.with_name(f".{target.name}.lock"), f"{target} is being made already", "wait for it to end"):
        found = encoder_standing(asset, file, hashes)
        if found.good:
            _remove_left_over(asset.path(file))
            return Brought(asset.name, target, target.stat().st_size, found.expected, False, "there")
        original = bring(asset, file, place, hashes, reporter)
        reporter.line(_said(original))
        if found.wrong:
            reporter.warn(f"{target} {found.wrong}: set aside as {set_aside(target).name}")
        return _cut(asset, file, original, target, reporter)


def _cut(asset: Asset, file: RemoteFile, original: Brought, target: Path, reporter: Reporter) -> Brought:
    config = load_backbone(asset.name)
    try:
        words = family_of(config).cut_encoder(config, original.path, target)
    except MissingError:
        # It must not stand there as what was fetched, nor its hash as what the file has to have.
        origin_path(original.path).unlink(missing_ok=True)
        reporter.warn(
            f"{original.path}: set aside as {set_aside(original.path).name}: no encoder could be cut out of it"
        )
        raise
    digest = file_sha256(target)
    of_original = original.sha256 or file_sha256(original.path)
    origin = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": digest,
        "sha256_is": "recorded when it was cut",
        "original": read_origin(original.path) | {"file": file.file, "sha256": of_original, "bytes": original.bytes},
        "kept": words,
        "licence": asset.licence,
        "licence_url": asset.licence_url,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(origin_path(target), origin)
    original.path.unlink()
    reporter.line(f"{target.name}: {words}; {file.file} removed")
    return Brought(asset.name, target, target.stat().st_size, digest, False, "cut")


def _remove_left_over(original: Path) -> None:
    """By a call that was killed before it removed what it had cut from; what nobody fetched is left."""
    if original.is_file() and read_origin(original):
        original.unlink()


def _said(original: Brought) -> str:
    how = "as published" if original.published else "recorded: none is published"
    return f"{original.path}: {original.means}, {format_size(original.bytes)}, sha256 {original.sha256}, {how}; cutting the encoder out"
