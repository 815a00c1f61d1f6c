#!/usr/bin/env bash
# Make requirements/{runtime,dev,cuda,sgm}.txt anew from the .in files and torch.txt's version. Needs the network.
set -euo pipefail
cd "$(dirname "$0")/../requirements"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3.11}" -m venv "$tools"
"$tools/bin/pip" install -q 'pip-tools==7.6.2'

compile() {
    "$tools/bin/pip-compile" -q --generate-hashes --allow-unsafe --strip-extras \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@"
}
compile -o runtime.txt runtime.in
compile -o dev.txt dev.in

# What is in FILE and neither in runtime.txt nor torch itself.
beyond_runtime() {
    awk 'NR == FNR { if (/^[a-z]/) known[$1] = 1; next }
         /^[a-z]/ { keep = !($1 in known) && !/^torch==/ }
         /^#|^ *$/ { next } keep' runtime.txt "$1"
}

# The CUDA build's own needs: resolved without the configured find-links, where a CPU build may lie.
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' torch.txt)
printf 'torch==%s\n-c %s/runtime.txt\n' "$version" "$PWD" >"$tools/torch.in"
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' compile -o "$tools/torch.txt" "$tools/torch.in"
{
    echo "# What torch $version's CUDA 13 build needs beside runtime.txt; made by scripts/lock.sh."
    echo "# Installed only where the torch that was found is that build."
    beyond_runtime "$tools/torch.txt"
} >cuda.txt

compile -o "$tools/sgm.txt" sgm.in
{
    echo "# sgm.in's lock, beside runtime.txt and torch.txt; made by scripts/lock.sh."
    beyond_runtime "$tools/sgm.txt" | awk '/^[a-z]/ { keep = !/^(cuda-|nvidia-|triton)/ } keep'
} >sgm.txt
