#!/bin/sh
# Create /opt/actiondiff: a virtual environment from the lock, with the project installed. Runs in the image, as root, with the
# project's files in SOURCE. Called by the builder stages of the Dockerfile and by %post of apptainer.def.
#   build.sh cpu|cuda
# Environment: TORCH_INDEX   an additional index that offers the required torch build ("" for none)
#              FORK_COMMIT   commit of the generative-models fork ("" to omit the fork)
#              FORK_FOLDER   a folder with the fork's files, instead of fetching them
set -eu
target=${1:?"usage: build.sh cpu|cuda"}
source=${SOURCE:-/src}
prefix=/opt/actiondiff
work=$(mktemp -d)

say() { echo "image: $*"; }
die() { echo "image: $*" >&2; exit 1; }
packages() { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

"$source/scripts/image/python.sh"
python=$(command -v python3.11)
"$python" -c 'import venv, ensurepip' 2>/dev/null || packages python3.11-venv

export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$python" -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip "$@"; }
locked() { pip install -q --no-deps --require-hashes "$@"; }

say "installing the lock"
locked -r "$source/requirements/runtime.txt"
# Download by version first, so that pip takes the build on TORCH_INDEX; then check the file against the hashes of the lock.
version=$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' "$source/requirements/torch.txt")
pip download -q --no-deps --dest "$work/torch" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$version"
locked --no-index --find-links "$work/torch" -r "$source/requirements/torch.txt"
found=$("$prefix/bin/python" -c 'from importlib.metadata import requires
needs = [need for need in requires("torch") if "extra ==" not in need]
print("cuda" if any("nvidia" in need or "cuda" in need for need in needs) else "cpu")')
[ "$found" = "$target" ] || die "pip was offered torch's $found build, and this is the $target image: see TORCH_INDEX in docs/image.md"
[ "$target" = cpu ] || locked -r "$source/requirements/cuda.txt"

# The tools that build source packages stay out of the image.
"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install -q --no-deps --require-hashes -r "$source/requirements/dev.txt"
wheel() { "$work/build/bin/python" -m pip wheel -q --no-deps --no-build-isolation --wheel-dir "$work/wheels" "$1"; }

say "building the project"
wheel "$source"
if [ -n "${FORK_COMMIT:-}" ] || [ -n "${FORK_FOLDER:-}" ]; then
    say "building the generative-models fork"
    locked -r "$source/requirements/sgm.txt"
    if [ -n "${FORK_FOLDER:-}" ]; then
        [ -d "$FORK_FOLDER/sgm" ] || die "FORK_FOLDER is $FORK_FOLDER, which holds no sgm package"
        wheel "$FORK_FOLDER"
    else
        command -v git >/dev/null || packages git ca-certificates
        wheel "git+https://github.com/frankyaoxiao/ActionDiff@$FORK_COMMIT#subdirectory=generative-models"
    fi
fi
pip install -q --no-deps --no-index "$work"/wheels/*.whl
pip check
# Nothing is installed at run time.
pip uninstall -q -y pip
rm -rf "$work" /root/.cache
say "$(du -sm "$prefix" | cut -f1) MB in $prefix"
