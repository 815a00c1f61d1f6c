"""What a bundle says of itself: a report to read, and files of the ecosystem (CODECHECK, RO-Crate).

ro-crate-metadata.json follows Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5) on RO-Crate 1.1.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from repro.core import __version__
from repro.pipeline.bundle.contents import MANIFEST, PAGE, REPORT, BundleManifest
from repro.records.record import RunRecord

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
PAPER = "https://arxiv.org/abs/2509.08908"
TITLE = "Diffusion-Based Action Recognition Generalizes to Untrained Domains"
AUTHORS = ("Rogério Guimarães", "Frank Xiao", "Pietro Perona", "Markus Marks")
TYPES = {
    ".json": "application/json", ".yaml": "application/yaml", ".yml": "application/yaml", ".csv": "text/csv", ".md": "text/markdown",
    ".html": "text/html", ".txt": "text/plain", ".parquet": "application/vnd.apache.parquet", ".index": "application/json",
}  # fmt: skip
"""Media types by a file's suffix."""
ABOUT = {
    "record.json": "run record: inputs, recipe, seed, scores of every epoch and provenance of one readout",
    "predictions.parquet": "scores of every test clip, from which the record's scores are computed again",
    "scores.parquet": "scores of every test clip of a grid's cell whose predictions have ranks alone",
    "manifest.parquet": "audit of a data set: sha256, frames and size of every video",
    "features.index": "sha256, norm and projections of every clip's features",
    "environment.json": "software and devices of the runs",
    REPORT: "verdicts as they were when the bundle was made",
    PAGE: "page that `repro report` makes of the records and predictions in this bundle",
}


def write_report(manifest: BundleManifest, verdicts: Sequence[str]) -> bytes:
    """Return the bundle's report as markdown."""
    lines = [
        f"# Evidence for {', '.join(manifest.rows)}", "",
        f"{manifest.records} run records, bundled by {manifest.made_by}.", "",
        f"Rule set {manifest.rules.name}, expected values sha256 `{manifest.rules.expected_sha256}`.", "",
        "Take none of this on trust: `repro check --bundle FILE` computes every score again from the predictions, and judges them.", "", "## Verdicts", "", "```text", *verdicts, "```", "", "## Features", "",
        f"Merkle root of features.index: `{manifest.features_root}`" if manifest.features_root else "No features are indexed.",
    ]  # fmt: skip
    for title, entries in (("Not in this bundle", manifest.missing), ("Redacted", manifest.redacted)):
        if entries:
            lines += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return ("\n".join(lines) + "\n").encode()


def write_codecheck(records: Mapping[str, RunRecord]) -> bytes:
    """Return codecheck.yml; records by the paths of their files."""
    content = {
        "version": "https://codecheck.org.uk/spec/config/1.0/",
        "source": PAPER,
        "paper": {"title": TITLE, "authors": [{"name": name} for name in AUTHORS], "reference": PAPER},
        "manifest": [
            {
                "file": path,
                "comment": f"{record.row}, seed {record.seed}: {record.metric} "
                f"{100 * record.best_epoch_on_test.scores[record.metric]:.2f} (best epoch on test)",
            }
            for path, record in records.items()
        ],
        "summary": "`repro check --bundle FILE` recomputes every score from predictions.parquet and judges it.",
        "report": REPORT,
    }
    return ("---\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode()


def write_environment(records: Sequence[RunRecord]) -> bytes:
    """Return the different software and devices of the records, each with the number of its runs."""
    found: dict[str, list[dict[str, Any]]] = {"software": [], "machines": []}
    for part, key in (("software", "by"), ("machines", "on")):
        counts: dict[str, int] = {}
        for record in records:
            # Sorted keys, so that equal descriptions are one text.
            text = json.dumps(getattr(record.made, key), sort_keys=True)
            counts[text] = counts.get(text, 0) + 1
        found[part] = [{"runs": count, **json.loads(text)} for text, count in sorted(counts.items())]
    return (json.dumps(found, indent=1) + "\n").encode()


def write_crate(manifest: BundleManifest, records: Mapping[str, RunRecord]) -> bytes:
    """Return ro-crate-metadata.json: every run is an action of this software, its record and predictions are the results.

    Neither the crate nor an action names a person, which the profile recommends: who ran it is private.
    """
    # The time of the newest run, not of now: two bundles of one workspace have the same bytes.
    software, newest = f"urn:actiondiff-repro:{__version__}", max(record.made.at for record in records.values())
    paths = [MANIFEST, *manifest.files]
    entities: list[dict[str, Any]] = [
        {
            "@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        },
        {
            "@id": "./", "@type": "Dataset", "name": f"Evidence for rows of ActionDiff: {', '.join(manifest.rows)}",
            "description": "Run records with predictions, configs, lock and expected values; `repro check --bundle` judges them.",
            "datePublished": newest, "license": {"@id": "https://spdx.org/licenses/MIT"}, "conformsTo": {"@id": PROFILE},
            "citation": {"@id": PAPER}, "hasPart": [{"@id": path} for path in paths],
            "mentions": [{"@id": f"#{path}"} for path in records],
        },
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": "https://spdx.org/licenses/MIT", "@type": "CreativeWork", "name": "MIT License",
            "description": "Licence of the software and of this bundle's own files.",
        },
        {"@id": PAPER, "@type": "ScholarlyArticle", "name": TITLE, "author": ", ".join(AUTHORS)},
        {
            "@id": software, "@type": "SoftwareApplication", "name": "actiondiff-repro", "softwareVersion": __version__,
            "url": PAPER, "description": "Reproduction of the results table of ActionDiff",
        },
    ]  # fmt: skip
    for path, record in records.items():
        # Of an extra there is none: it is an entry of extras.yaml.
        configs = [f"configs/{part}/{record.row}.yaml" for part in ("rows", "smoke", "own")]
        config = next((name for name in configs if name in manifest.files), "configs/extras.yaml")
        entities.append(
            {
                "@id": f"#{path}", "@type": "CreateAction", "name": f"repro {record.row}, seed {record.seed}",
                "description": f"{record.protocol} protocol, {record.metric} "
                f"{100 * record.best_epoch_on_test.scores[record.metric]:.2f} at the best epoch on test",
                "instrument": {"@id": software}, "endTime": record.made.at, "actionStatus": "http://schema.org/CompletedActionStatus",
                "object": {"@id": config},
                "result": [{"@id": path}, {"@id": str(PurePosixPath(path).with_name("predictions.parquet"))}],
            }
        )  # fmt: skip
    for path in paths:
        about = ABOUT.get(PurePosixPath(path).name)
        facts = manifest.files.get(path)
        entities.append(
            {
                "@id": path,
                "@type": "File",
                "name": path,
                "encodingFormat": TYPES.get(PurePosixPath(path).suffix, "text/plain"),
            }
            | ({"contentSize": str(facts.bytes), "sha256": facts.sha256} if facts else {})
            | ({"description": about} if about else {})
        )
    context = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
    return (json.dumps({"@context": context, "@graph": entities}, indent=1, ensure_ascii=False) + "\n").encode()
