"""Fetch a large training checkpoint, keep its encoder as safetensors, and remove the checkpoint.

ENCODER.origin.json records both hashes. The checkpoint's own FILE.origin.json stays, so that a later download of it is compared
with the sha256 of the first.
"""

from datetime import UTC, datetime
from pathlib import Path

from repro.backbones.registry import family_of, load_backbone
from repro.core.console import Reporter
from repro.core.disk import format_size
from repro.core.errors import MissingError
from repro.core.files import lock_file, set_aside, write_json
from repro.core.hashing import FileHashes, file_sha256
from repro.core.remote_file import RemoteFile
from repro.fetch.catalogue import Asset
from repro.fetch.fetch_file import fetch_file
from repro.fetch.file_state import FetchedFile, inspect_encoder, origin_path, read_origin


def fetch_encoder(
    asset: Asset, file: RemoteFile, place: str | None, hashes: FileHashes, reporter: Reporter
) -> FetchedFile:
    """Verify an encoder that is present; otherwise fetch the checkpoint `file`, cut the encoder out and remove the checkpoint.

    Args:
        asset: The backbone's asset, with the path of its encoder.
        file: The checkpoint that the encoder is part of.
        place: The argument of --from: a file, folder or address to use instead of the publisher's.
        hashes: The workspace's cache of sha256s.
        reporter: Where progress and files set aside are reported.

    Raises:
        MissingError: the checkpoint cannot be fetched, is not the expected one, or holds another encoder than the config says.
        UsageError: another process is fetching it; `place` is invalid; the disk is full.
    """
    target = asset.encoder
    assert target is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    # One lock around fetching and cutting, named by the encoder: several backbones may be configs of one encoder.
    with lock_file(target.with_name(f".{target.name}.lock"), f"{target} is being made already", "wait for it to end"):
        state = inspect_encoder(asset, file, hashes)
        if state.good:
            _remove_leftover_checkpoint(asset.path(file))
            return FetchedFile(asset.name, target, target.stat().st_size, state.expected, False, "there")
        checkpoint = fetch_file(asset, file, place, hashes, reporter)
        known = "as published" if checkpoint.published else "recorded: none is published"
        reporter.line(
            f"{checkpoint.path}: {checkpoint.means}, {format_size(checkpoint.bytes)}, sha256 {checkpoint.sha256}, {known}; cutting "
            "the encoder out"
        )
        if state.wrong:
            reporter.warn(f"{target} {state.wrong}: set aside as {set_aside(target).name}")
        return _cut_encoder(asset, file, checkpoint, target, reporter)


def _cut_encoder(
    asset: Asset, file: RemoteFile, checkpoint: FetchedFile, target: Path, reporter: Reporter
) -> FetchedFile:
    config = load_backbone(asset.name)
    try:
        kept = family_of(config).cut_encoder(config, checkpoint.path, target)
    except MissingError:
        # Forget the recorded hash, so that the next download is not compared with that of a wrong file.
        origin_path(checkpoint.path).unlink(missing_ok=True)
        reporter.warn(
            f"{checkpoint.path}: set aside as {set_aside(checkpoint.path).name}: no encoder could be cut out of it"
        )
        raise
    digest = file_sha256(target)
    # A checkpoint that was there already and of which nothing is known has not been hashed yet.
    checkpoint_sha256 = checkpoint.sha256 or file_sha256(checkpoint.path)
    origin = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": digest,
        "sha256_is": "recorded when it was cut",
        "original": read_origin(checkpoint.path)
        | {"file": file.file, "sha256": checkpoint_sha256, "bytes": checkpoint.bytes},
        "kept": kept,
        "licence": asset.licence,
        "licence_url": asset.licence_url,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The checkpoint is removed last: a call killed before has lost nothing, and the next one removes it.
    write_json(origin_path(target), origin)
    checkpoint.path.unlink()
    reporter.line(f"{target.name}: {kept}; {file.file} removed")
    return FetchedFile(asset.name, target, target.stat().st_size, digest, False, "cut")


def _remove_leftover_checkpoint(path: Path) -> None:
    """Remove a checkpoint that a killed call had cut already. A file without origin was not fetched and is left alone."""
    if path.is_file() and read_origin(path):
        path.unlink()
