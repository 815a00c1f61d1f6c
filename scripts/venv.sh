#!/usr/bin/env bash
# Create or repair .venv from the lock: `scripts/venv.sh [FOLDER]`. Does nothing if it matches the lock already.
# PYTHON names the interpreter; without it, the first of python3.11, python3.12 and python3.13 that runs.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-}

say() { printf 'venv: %s\n' "$*"; }
die() { printf 'venv: %s\n' "$*" >&2; exit 1; }

hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
install_project() {
    pip install -q --no-deps --no-build-isolation --editable .
    hash_of pyproject.toml >"$venv/.project-sha256"
}

# A virtual environment contains its own path, so a moved or copied one is built again; so is one of another Python.
lock="$(hash_of requirements/{runtime,dev,torch,cuda,efficientnet}.txt) $(readlink -f "$venv" 2>/dev/null || echo "$PWD/$venv")"
if [ "$(cat "$venv/.lock-sha256" 2>/dev/null)" = "$lock" ] && found=$(version_of "$venv/bin/python") &&
    { [ -z "$python" ] || [ "$(version_of "$python")" = "$found" ]; }; then
    [ "$(cat "$venv/.project-sha256" 2>/dev/null)" = "$(hash_of pyproject.toml)" ] || install_project
    exit 0
fi

if [ -z "$python" ]; then
    for python in python3.11 python3.12 python3.13 ""; do
        # A version manager's stub is found, but may not run.
        [ -n "$python" ] && [ "$(version_of "$python")" = "${python#python}" ] && break
    done
    [ -n "$python" ] || die "found none of python3.11, python3.12, python3.13; install one, or name one: make PYTHON=/path/to/python"
fi
command -v "$python" >/dev/null || die "$python not found; install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python"
version=$(version_of "$python") || die "$python does not run"
case "$version" in
    3.11 | 3.12 | 3.13) ;;
    *) die "$python is Python $version; the lock is for 3.11, 3.12 and 3.13: make PYTHON=/path/to/python" ;;
esac
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python has no venv module; on Debian and Ubuntu: apt-get install python$version-venv"

say "installing the lock into $venv with Python $version (a few minutes, once)"
rm -f "$venv/.lock-sha256"
"$python" -m venv --clear "$venv"
pip install -q --no-deps --require-hashes -r requirements/runtime.txt -r requirements/dev.txt -r requirements/efficientnet.txt
# The build of torch is chosen by version alone, because pip then prefers a CPU build if one is offered; asked for by
# hash, pip would prefer an index that states hashes to a folder that does not. The file is then checked by hash.
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
pip download -q --no-deps --dest "$wheels" "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/torch.txt)"
pip install -q --no-deps --require-hashes --no-index --find-links "$wheels" -r requirements/torch.txt ||
    die "$(basename "$wheels"/torch-*.whl) is no build that requirements/torch.txt lists; requirements/README.md says which are"
# Only the CUDA build requires CUDA packages; which build was found depends on the indexes that pip was given.
if "$venv/bin/python" -c 'from importlib.metadata import requires; raise SystemExit(not any("cuda" in r or "nvidia" in r for r in requires("torch") if "extra ==" not in r))'; then
    say "torch is the CUDA build: installing its libraries too (gigabytes; see README for the CPU build)"
    pip install -q --no-deps --require-hashes -r requirements/cuda.txt
fi
install_project
scripts/image/check_packages.sh "$venv/bin/python" -m pip --disable-pip-version-check || die "the lock is not complete"
echo "$lock" >"$venv/.lock-sha256"
say "ready: $("$venv/bin/python" -c 'from importlib.metadata import version as v; print("torch", v("torch"))')"
