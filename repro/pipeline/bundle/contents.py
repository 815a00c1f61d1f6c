"""bundle.json: what a bundle is made of. Only what it lists, with that sha256, is looked at."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from repro.core import __version__
from repro.core.config import Config, configs_folder, expected_folder
from repro.core.errors import UsageError, state_reason
from repro.core.hashing import file_sha256
from repro.core.signed import parse_signed_json
from repro.features.shared import Sha256
from repro.judge.expected import name_rule_set, table_path
from repro.pipeline.bundle.archive import BundleError

BUNDLE_FORMAT = 1
MANIFEST, FEATURES_INDEX, REPORT, PAGE = "bundle.json", "features.index", "report.md", "report.html"
MADE_BY = f"actiondiff-repro {__version__}"


class BundledFile(Config):
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Rules(Config):
    """The rule set that the rows were judged by when the bundle was made."""

    name: str
    expected_sha256: Sha256
    """Of its files."""


class BundleManifest(Config):
    """The contents of bundle.json."""

    format: Literal[1] = 1
    made_by: str
    """Project and version."""
    rules: Rules
    rows: tuple[str, ...]
    records: int
    features_root: Sha256 | None
    """Root of the Merkle tree over features.index: it commits to every hash in it."""
    missing: tuple[str, ...]
    """What a bundle may have and this one does not."""
    redacted: tuple[str, ...]
    """Files from which paths, names or tokens were removed."""
    files: dict[str, BundledFile]
    """Every other file, by its path."""


def find_rules(name: str = "rules-1") -> Rules:
    """Return a rule set that is shipped.

    Raises:
        UsageError: there is none of this name.
    """
    path = table_path(name.removeprefix("rules-") if re.fullmatch(r"rules-\d+", name) else "unknown")
    found, sha256 = name_rule_set(path)
    return Rules(name=found, expected_sha256=sha256)


def parse_manifest(text: bytes, path: Path) -> BundleManifest:
    """Read bundle.json.

    Raises:
        BundleError: it is damaged, or of a format or a rule set that this version does not know.
    """
    try:
        raw, intact = parse_signed_json(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is damaged ({error}): get it again") from error
    # Before anything else of it: another format may have other keys.
    made_by = str(raw.get("made_by"))[:80]
    if raw.get("format") != BUNDLE_FORMAT:
        raise BundleError(
            f"{path}: a bundle of format {str(raw.get('format'))[:20]}, made by {made_by}; this version reads format {BUNDLE_FORMAT}: use that "
            "version"
        )
    try:
        # From JSON text again: the strict mode takes a JSON list for a tuple, and a Python list not.
        manifest = BundleManifest.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:120]
        raise BundleError(
            f"{path}: {MANIFEST} is not of format {BUNDLE_FORMAT}: {where}: {state_reason(first['msg'])}"
        ) from error
    if not intact:
        raise BundleError(f"{path}: {MANIFEST} is damaged or edited: it does not match its own sha256")
    try:
        find_rules(manifest.rules.name)
    except UsageError as error:
        raise BundleError(
            f"{path}: judged by rule set '{manifest.rules.name[:40]}' of {made_by}, which this version does not have: use that version"
        ) from error
    return manifest


def compare_origin(manifest: BundleManifest) -> list[str]:
    """Return a line for each way in which the bundle was made otherwise than one is made here."""
    # Differences are notes and no refusals: the verdicts are computed with what is here.
    notes, here = [], find_rules(manifest.rules.name)
    if manifest.made_by != MADE_BY:
        notes.append(f"made by {manifest.made_by}, judged by {MADE_BY}")
    if manifest.rules.expected_sha256 != here.expected_sha256:
        notes.append(
            f"made under another {here.name} (sha256 {manifest.rules.expected_sha256[:16]}), judged by the one here "
            f"({here.expected_sha256[:16]})"
        )
    for name, facts in manifest.files.items():
        part, _, rest = name.partition("/")
        folder = {"configs": configs_folder, "expected": expected_folder}.get(part)
        shipped = folder() / rest if folder else None
        if shipped and shipped.is_file() and file_sha256(shipped) != facts.sha256:
            notes.append(f"{name} is not the one here, which rows are judged by")
    return notes
