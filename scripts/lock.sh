#!/usr/bin/env bash
# Regenerate requirements/{runtime,dev,audit,cuda,sgm}.txt from the .in files and torch.txt's version. Needs the network.
# One lock serves every Python that pyproject.toml allows: where versions differ, lines carry markers.
set -euo pipefail
cd "$(dirname "$0")/../requirements"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3.11}" -m venv "$tools"
"$tools/bin/pip" install -q 'uv==0.13.9'

compile() {
    "$tools/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command scripts/lock.sh "$@" >/dev/null
}
# Pins that still satisfy the .in files are kept; delete a .txt file first to take the newest versions.
compile -o runtime.txt runtime.in
compile -o dev.txt dev.in
compile -o audit.txt audit.in

# Requirements in FILE that are neither in runtime.txt nor torch itself.
beyond_runtime() {
    awk 'NR == FNR { if (/^[a-z]/) known[$1] = 1; next }
         /^[a-z]/ { keep = !($1 in known) && !/^torch==/ }
         /^#|^ *$/ { next } keep' runtime.txt "$1"
}

# The CUDA build's own requirements.
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' torch.txt)
printf 'torch==%s\n-c %s/runtime.txt\n' "$version" "$PWD" >"$tools/torch.in"
cp cuda.txt "$tools/torch.txt"
compile -o "$tools/torch.txt" "$tools/torch.in"
{
    echo "# What torch $version's CUDA 13 build needs in addition to runtime.txt; made by scripts/lock.sh."
    echo "# Installed only with that build."
    beyond_runtime "$tools/torch.txt"
} >cuda.txt

cp sgm.txt "$tools/sgm.txt"
compile -o "$tools/sgm.txt" sgm.in
{
    echo "# Lock of sgm.in, in addition to runtime.txt and torch.txt; made by scripts/lock.sh."
    beyond_runtime "$tools/sgm.txt" | awk '/^[a-z]/ { keep = !/^(cuda-|nvidia-|triton)/ } keep'
} >sgm.txt
