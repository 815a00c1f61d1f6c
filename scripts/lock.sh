#!/usr/bin/env bash
# Make requirements/{runtime,dev,cuda}.txt anew from the .in files and torch.txt's version. Needs the network.
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

# The CUDA build's own needs: resolved without the configured find-links, where a CPU build may lie.
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' torch.txt)
printf 'torch==%s\n-c %s/runtime.txt\n' "$version" "$PWD" >"$tools/torch.in"
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' compile -o "$tools/torch.txt" "$tools/torch.in"
{
    echo "# What torch $version's CUDA 13 build needs beside runtime.txt; made by scripts/lock.sh."
    echo "# Installed only where the torch that was found is that build."
    awk '/^[a-z]/ { keep = /^(cuda-|nvidia-|triton)/ } /^#|^ *$/ { next } keep' "$tools/torch.txt"
} >cuda.txt
