"""Write a bundle from a workspace."""

import base64
import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import ValidationError

from repro.core.config import configs_folder, expected_folder, shipped_folder
from repro.core.console import Reporter
from repro.core.errors import NothingToCheckError, UsageError
from repro.core.hashing import canonical_json, content_sha256, file_sha256
from repro.core.reading import parse_json, read_bytes
from repro.core.workspace import Workspace
from repro.datasets.manifest import manifest_path, read_manifest, write_manifest
from repro.datasets.own import OwnDataset
from repro.judge.expected import table_path
from repro.pipeline.bundle.archive import write_zip
from repro.pipeline.bundle.contents import (
    FEATURES_INDEX,
    MADE_BY,
    MANIFEST,
    PAGE,
    REPORT,
    BundledFile,
    BundleManifest,
    find_rules,
)
from repro.pipeline.bundle.descriptions import write_codecheck, write_crate, write_environment, write_report
from repro.pipeline.bundle.features_index import format_index, index_features
from repro.pipeline.bundle.private import PERSONAL_KEYS, Private, describe_private
from repro.records.record import RunRecord, StoredRun, stored_run
from repro.table.own import OwnRow
from repro.table.row import Row, row_datasets

EVIDENCE = (
    "classes", "row", "metric", "protocol", "kind", "run", "group", "grid", "predictions_sha256", "missing_clips", "sha256", "recipe",
    "identity", "key_rest",
)  # fmt: skip
"""Keys of a record below which nothing is redacted: its keys are hashes of them, or predictions and configs have them too. If paths or
tokens are there, no bundle is written."""
PIXELS = b"\x89PNG"
"""How the pictures of pixels in figures begin. They are compressed, and have no text."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written."""

    manifest: BundleManifest
    bytes: int


RenderPage = Callable[[Sequence[Row], Workspace], str]
"""Returns the page of rows from the runs and audits in a workspace: report/ is above this package."""


def write_bundle(
    file: Path,
    rows: Sequence[Row],
    records: Sequence[RunRecord],
    verdicts: Sequence[str],
    workspace: Workspace,
    reporter: Reporter,
    render_page: RenderPage,
) -> Bundle:
    """Write the evidence of `records` to a zip file; two bundles of the same workspace have the same bytes.

    Args:
        file: The zip file.
        rows: The rows that the records measure.
        records: Records of the workspace that agree with their evidence.
        verdicts: What they were judged as, a line each, for the report.
        workspace: Where they are stored.
        reporter: Where progress is reported.
        render_page: Renders the page. It gets a workspace with what the bundle has: nothing that was removed can be on the page.

    Raises:
        UsageError: the file exists, or what cannot be redacted (names of clips) holds paths or tokens.
        MissingError: stored features or an audit are damaged.
    """
    if file.exists():
        raise UsageError(f"{file}: exists: name another file, or delete this one")
    private = describe_private(workspace)
    with tempfile.TemporaryDirectory() as folder:
        members: dict[str, bytes | Path] = {}
        redacted: list[str] = []
        by_path: dict[str, RunRecord] = {}
        # Sorted, as are the members below: two bundles of one workspace have the same bytes.
        for record in sorted(records, key=lambda record: (record.row, record.seed, record.run)):
            stored = stored_run(workspace.runs, record.row, record.seed, record.run)
            path = stored.record_path.relative_to(workspace.root).as_posix()
            members[path], by_path[path] = _redact_record(stored, path, private, redacted)
            for evidence in (stored.predictions_path, stored.scores_path):
                if evidence.exists():
                    members[evidence.relative_to(workspace.root).as_posix()] = evidence
        missing = _add_audits(members, by_path, workspace, Path(folder), private, redacted)
        _add_configs(members, rows, private, redacted)
        missing += _add_shipped(members, any(row.kind == "smoke" for row in rows))
        index, without = index_features(by_path.values(), workspace, reporter)
        if index.collections:
            members[FEATURES_INDEX] = format_index(index)
        members["environment.json"] = write_environment(list(by_path.values()))
        manifest = BundleManifest(
            made_by=MADE_BY, rules=find_rules(), rows=tuple(sorted({record.row for record in records})), records=len(by_path),
            features_root=index.merkle_root if index.collections else None, missing=(*missing, *without),
            redacted=tuple(redacted), files={},
        )  # fmt: skip
        members[REPORT] = write_report(manifest, [private.redact(line) for line in verdicts])
        try:
            members[PAGE] = _render_bundled_page(members, rows, Path(folder) / "evidence", render_page)
        except NothingToCheckError as error:
            reporter.warn(f"no {PAGE}: {error}")
        members["codecheck.yml"] = write_codecheck(by_path)
        members = dict(sorted(members.items()))
        # Last, on what is about to be written: redaction may have missed a place that nobody thought of.
        _refuse_private(members, by_path, private)
        manifest = manifest.model_copy(
            update={"files": {name: _describe(content) for name, content in members.items()}}
        )
        crate = write_crate(manifest, by_path)
        # The crate describes every file of the manifest, so that its own line can only be added after it.
        manifest = manifest.model_copy(update={"files": {**manifest.files, "ro-crate-metadata.json": _describe(crate)}})
        signed = manifest.model_dump(mode="json")
        text = json.dumps({**signed, "sha256": content_sha256(signed)}, indent=1, ensure_ascii=False).encode()
        write_zip(file, {MANIFEST: text, "ro-crate-metadata.json": crate, **members})
    return Bundle(manifest, file.stat().st_size)


def _render_bundled_page(
    members: Mapping[str, bytes | Path], rows: Sequence[Row], folder: Path, render: RenderPage
) -> bytes:
    """Return the page of what a bundle has, from a workspace made of it."""
    workspace = Workspace(folder)
    for name, content in members.items():
        if name.startswith(("runs/", "audits/")):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                # Predictions are large, and the page is made of what will be in the bundle: links, no copies.
                path.symlink_to(content.absolute())
    # Of own rows the file as the bundle has it, not the path that it has on this machine.
    shown = [
        row.model_copy(update={"file": Path("configs") / "own" / f"{row.name}.yaml"})
        if isinstance(row, OwnRow)
        else row
        for row in rows
    ]
    return render(shown, workspace).encode(errors="backslashreplace")


def _describe(content: bytes | Path) -> BundledFile:
    if isinstance(content, bytes):
        return BundledFile(sha256=sha256(content).hexdigest(), bytes=len(content))
    return BundledFile(sha256=file_sha256(content), bytes=content.stat().st_size)


def _redact_record(stored: StoredRun, path: str, private: Private, redacted: list[str]) -> tuple[bytes, RunRecord]:
    """Return a record's file and the record, signed again if something private was in it."""
    text = read_bytes(stored.record_path)
    before = parse_json(text)
    after = private.redact_json({key: value for key, value in before.items() if key != "sha256"}, EVIDENCE)
    # The recipe is kept as it is, since keys are hashes of it; its note is free text, and no key has it.
    after["recipe"]["note"] = private.redact(after["recipe"]["note"])
    after["made"]["on"] = {key: value for key, value in after["made"]["on"].items() if not PERSONAL_KEYS.search(key)}
    if canonical_json(after) != canonical_json({key: value for key, value in before.items() if key != "sha256"}):
        # Signed again only if it had to change: otherwise the file stays the one that was recorded, byte for byte.
        redacted.append(path)
        text = (json.dumps({**after, "sha256": content_sha256(after)}, indent=1, ensure_ascii=False) + "\n").encode()
    try:
        return text, RunRecord.model_validate_json(json.dumps(after))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(
            f"{path}: {where} holds a name, path or token of yours, and nothing else can be there"
        ) from error


def _add_audits(
    members: dict[str, bytes | Path],
    records: Mapping[str, RunRecord],
    workspace: Workspace,
    folder: Path,
    private: Private,
    redacted: list[str],
) -> list[str]:
    """Add the audits that records state; returns a line for each that is not in the workspace any more."""
    missing = []
    for dataset, stated in sorted({pair for record in records.values() for pair in record.manifests.items()}):
        source = manifest_path(workspace, dataset)
        name = f"audits/{dataset}/manifest.parquet"
        audit = read_manifest(source) if source.is_file() else None
        # An audit that was made again since is no evidence of what the run read.
        if audit is None or audit.sha256 != stated:
            missing.append(
                f"audit {stated[:16]} of {dataset}: the workspace has {'none' if audit is None else 'another'}"
            )
            continue
        clips = tuple(
            dataclasses.replace(clip, path=private.redact_json(clip.path), error=private.redact(clip.error))
            for clip in audit.clips
        )
        if clips != audit.clips:
            redacted.append(name)
        # Written again also if nothing was redacted: a parquet file has room for text that no reader of this project sees.
        target = folder / f"{dataset}.parquet"
        write_manifest(target, dataclasses.replace(audit, clips=clips))
        members[name] = target
    return missing


def _add_configs(members: dict[str, bytes | Path], rows: Sequence[Row], private: Private, redacted: list[str]) -> None:
    """Add the configs of rows, their backbones and data sets."""
    configs = configs_folder()
    names: set[str] = set()
    own: dict[str, Path] = {}
    for row in rows:
        names |= {"smoke.yaml", f"smoke/{row.name}.yaml"} if row.kind == "smoke" else set()
        names |= {f"rows/{row.name}.yaml"} if row.kind == "published" else set()
        names |= {"extras.yaml"} if row.kind == "extra" else set()
        backbone = f"backbones/{row.backbone}.yaml"
        while backbone:
            names.add(backbone)
            parent = re.search(r"^extends: *(\w+)", (configs / backbone).read_text(encoding="utf-8"), re.MULTILINE)
            # A config may extend another, without which nobody can read it.
            backbone = f"backbones/{parent[1]}.yaml" if parent else ""
        for dataset in row_datasets(row).values():
            if isinstance(dataset, OwnDataset):
                own[f"configs/own/{dataset.name}.yaml"] = dataset.file
            else:
                names.add(f"datasets/{dataset.name}.yaml")
        if isinstance(row, OwnRow):
            own[f"configs/own/{row.name}.yaml"] = row.file
    members |= {f"configs/{name}": read_bytes(configs / name) for name in names}
    for name, path in own.items():
        # A user's own files: comments in them may name folders.
        before = read_bytes(path).decode(errors="replace")
        after = private.redact(before)
        if after != before:
            redacted.append(name)
        members[name] = after.encode()


def _add_shipped(members: dict[str, bytes | Path], smoke: bool) -> list[str]:
    """Add the rule set and the lock; returns a line if there is no lock, as in a wheel."""
    rules = table_path().parent
    members |= {f"expected/{rules.name}/{path.name}": read_bytes(path) for path in rules.iterdir() if path.is_file()}
    if smoke:
        members["expected/smoke/golden.json"] = read_bytes(expected_folder() / "smoke" / "golden.json")
    lock = sorted(shipped_folder("requirements").glob("*.txt"))
    members |= {f"requirements/{path.name}": read_bytes(path) for path in lock}
    return [] if lock else ["lock: the installed package has none; environment.json has the versions of what computes"]


def _refuse_private(members: Mapping[str, bytes | Path], records: Mapping[str, RunRecord], private: Private) -> None:
    """Look through everything that is to be written.

    Raises:
        UsageError: something private is in it.
    """
    own = {path.rsplit("/", 1)[0] for path, record in records.items() if record.kind == "own"}
    for name, content in members.items():
        if name == PAGE:
            assert isinstance(content, bytes)
            # Without words: class names are in the page, and a class may be called as a user is.
            text, words = _page_text(content), False
        elif name.endswith(".parquet"):
            assert isinstance(content, Path)
            text, words = _parquet_text(content), name.rsplit("/", 1)[0] in own
        else:
            text, words = (
                (content if isinstance(content, bytes) else read_bytes(content)).decode(errors="replace"),
                False,
            )
        found = private.find(text, words=words)
        if found:
            raise UsageError(
                f"{name} would hold '{found[:80]}', a path, token or name of yours, where it cannot be removed without changing the "
                "evidence: name clips and rows otherwise, and run again"
            )


def _page_text(page: bytes) -> str:
    """Return a page with the data of its figures in clear."""
    texts = []
    # matplotlib divides data into lines.
    for number, part in enumerate(re.split(rb";base64,([A-Za-z0-9+/=\n]*)", page)):
        if number % 2 == 0:
            texts.append(part.decode(errors="replace"))
        elif not (data := base64.b64decode(part)).startswith(PIXELS):
            texts.append(_page_text(data))
    return "\n".join(texts)


def _parquet_text(path: Path) -> str:
    """Return the different texts of a parquet file: names of columns, metadata, and values of columns that are not numbers."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        about = (schema.metadata or {}) | (file.metadata.metadata or {})
        texts = [*schema.names, *(part.decode(errors="replace") for pair in about.items() for part in pair)]
        for column in schema.names:
            if schema.field(column).type in ("string", "large_string"):
                # Each text once: a column repeats its few values for thousands of clips.
                texts += [one for one in file.read(columns=[column])[column].unique().to_pylist() if one]
    return "\n".join(texts)
