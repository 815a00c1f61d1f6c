"""Print what is installed here, with licences, as CycloneDX 1.6: `python sbom.py python` or `python sbom.py debian`.

Runs in the image while it is built, without packages of others. Licences are what packages state of themselves: SPDX
identifiers where they use them, else names. Libraries inside of wheels, as FFmpeg in PyAV's, are the wheel's.
"""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

LONGEST = 100
"""Characters of a License field that is a name: longer ones are the text of the licence."""
Component = dict[str, Any]


def list_python() -> Iterator[Component]:
    """Yield the distributions of this interpreter's environment."""
    found = {str(one.metadata["Name"]).lower(): one for one in distributions()}
    for name, one in sorted(found.items()):
        normal = re.sub(r"[-_.]+", "-", name)
        yield {
            "type": "library",
            "bom-ref": f"pkg:pypi/{normal}@{quote(one.version)}",
            "name": str(one.metadata["Name"]),
            "version": one.version,
            "licenses": list(read_licences(one.metadata)),
            "purl": f"pkg:pypi/{normal}@{quote(one.version)}",
            "properties": [{"name": "licence files", "value": ", ".join(list_licence_files(one))}],
        }


def read_licences(metadata: PackageMetadata) -> Iterator[dict[str, Any]]:
    """Yield what a distribution states: its expression, else its classifiers, else its License field."""
    expression = metadata.get("License-Expression")
    if expression:
        yield {"expression": expression}
        return
    classifiers = [one for one in metadata.get_all("Classifier") or () if one.startswith("License ::")]
    names = [one.rpartition(" :: ")[2] for one in classifiers if one != "License :: OSI Approved"]
    stated = (metadata.get("License") or "").strip()
    if not names and stated and len(stated) <= LONGEST and "\n" not in stated:
        names = [stated]
    yield from ({"license": {"name": name}} for name in names or ["see licence files"])


def list_licence_files(one: Distribution) -> list[str]:
    """Return the files of a distribution that are named as licences are."""
    wanted = re.compile(r"(licen[cs]e|copying|notice)[^/]*$|/licenses/", re.IGNORECASE)
    return sorted(str(path) for path in one.files or () if ".dist-info/" in str(path) and wanted.search(str(path)))


def list_debian(root: Path = Path("/")) -> Iterator[Component]:
    """Yield the installed Debian packages."""
    fields = "${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\n"
    query = ["/usr/bin/dpkg-query", "-W", "-f", fields]
    printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    for line in sorted(printed.splitlines()):
        name, version, architecture, state = line.split()
        if state != "ii":
            continue
        path = root / "usr" / "share" / "doc" / name / "copyright"
        purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "licenses": [{"license": {"name": one}} for one in read_copyright(path) or ["see licence files"]],
            "purl": purl,
            "properties": [{"name": "licence files", "value": str(path) if path.is_file() else ""}],
        }


def read_copyright(path: Path) -> list[str]:
    """Return the names of licences in a machine-readable debian/copyright; empty for a file in prose."""
    if not path.is_file():
        return []
    found = re.findall(r"^License:[ \t]*(\S.*)$", path.read_text(errors="replace"), re.MULTILINE)
    return sorted({" ".join(one.split()) for one in found})


def build_document(components: list[Component], subject: str) -> dict[str, Any]:
    """Return the document; equal components give an equal one if SOURCE_DATE_EPOCH is set."""
    moment = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            "component": {"type": "container", "bom-ref": "image", "name": f"actiondiff, {subject} packages"},
        },
        "components": components,
    }


def main(kind: str) -> None:
    listed = {"python": list_python, "debian": list_debian}[kind]()
    json.dump(build_document(list(listed), kind), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
