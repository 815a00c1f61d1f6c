#!/bin/sh
# Install the project into /opt/actiondiff below ROOT ("" for this file system), in which packages.sh has installed what it
# imports, and list every Python package with its licence. Runs in the image, as root, with the project's files in SOURCE.
#   project.sh [ROOT]
set -eu
root=${1:-}
source=${SOURCE:-/src}
prefix=/opt/actiondiff
tools=/opt/build
work=/opt/image-project
# An argument that is not given is empty here, which is no time to the tools that read the variable.
[ -n "${SOURCE_DATE_EPOCH:-}" ] || unset SOURCE_DATE_EPOCH
mkdir -p "$work"
export TMPDIR="$work" HOME="$work"

export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_COMPILE=1
"$tools/bin/python" -m pip wheel -q --no-deps --no-build-isolation --wheel-dir "$work" "$source"
pip() { "$tools/bin/python" -m pip --python "$prefix/bin/python" "$@"; }
# Installed here as well, so that the list below has it; by name, so that pip notes no folder.
pip install -q --no-deps --no-index --find-links "$work" actiondiff-repro
"$source/scripts/image/check_packages.sh" "$tools/bin/python" -m pip --python "$prefix/bin/python"
[ -z "$root" ] || pip install -q --no-deps --no-index --find-links "$work" --ignore-installed --root "$root" actiondiff-repro
mkdir -p "$root/usr/share/sbom"
"$prefix/bin/python" "$source/scripts/image/sbom.py" python >"$root/usr/share/sbom/python.cdx.json"
"$source/scripts/image/settle.sh" "${root:-$prefix}" "$root$prefix/lib/python3.11/site-packages/repro" "$root"
rm -rf "$work"
