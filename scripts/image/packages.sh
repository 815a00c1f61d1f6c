#!/bin/sh
# Create /opt/actiondiff: a virtual environment with the packages of the lock, without the project, which changes more often.
# Runs in the image, as root, with the project's files in SOURCE. Called by the Dockerfile and by %post of apptainer.def.
#   packages.sh cpu|cuda
# Environment: TORCH_INDEX   an additional index that offers the required torch build ("" for none)
#              FORK_COMMIT   commit of the generative-models fork ("" to omit the fork)
#              FORK_FOLDER   a folder with the fork's files, instead of fetching them
#              SOURCE_DATE_EPOCH   time, in seconds since 1970, that no file is later than ("" for none)
set -eu
target=${1:?"usage: packages.sh cpu|cuda"}
source=${SOURCE:-/src}
prefix=/opt/actiondiff
tools=/opt/build
# No random name: what pip notes of a folder would differ between two builds.
work=/opt/image-packages
[ -n "${SOURCE_DATE_EPOCH:-}" ] || unset SOURCE_DATE_EPOCH
mkdir -p "$work"
# Temporary files and caches too: clean.sh says why.
export TMPDIR="$work" HOME="$work"

say() { echo "image: $*"; }
die() { echo "image: $*" >&2; exit 1; }
packages() { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

"$source/scripts/image/python.sh"
python=$(command -v python3.11)
"$python" -c 'import venv, ensurepip' 2>/dev/null || packages python3.11-venv

# Nothing is installed at run time: pip and the tools that build source packages are in a folder that stays out of the image.
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_COMPILE=1
"$python" -m venv "$tools"
"$tools/bin/python" -m pip install -q --no-deps --require-hashes -r "$source/requirements/dev.txt"
"$python" -m venv --without-pip "$prefix"
pip() { "$tools/bin/python" -m pip --python "$prefix/bin/python" "$@"; }
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

if [ -n "${FORK_COMMIT:-}" ] || [ -n "${FORK_FOLDER:-}" ]; then
    say "building the generative-models fork"
    locked -r "$source/requirements/sgm.txt"
    fork=${FORK_FOLDER:-git+https://github.com/frankyaoxiao/ActionDiff@$FORK_COMMIT#subdirectory=generative-models}
    if [ -n "${FORK_FOLDER:-}" ]; then
        [ -d "$FORK_FOLDER/sgm" ] || die "FORK_FOLDER is $FORK_FOLDER, which holds no sgm package"
    else
        command -v git >/dev/null || packages git ca-certificates
    fi
    "$tools/bin/python" -m pip wheel -q --no-deps --no-build-isolation --wheel-dir "$work/fork" "$fork"
    pip install -q --no-deps --no-index "$work"/fork/*.whl
fi
"$source/scripts/image/check_packages.sh" "$tools/bin/python" -m pip --python "$prefix/bin/python"

# Tests of packages, which nothing imports, and programs of torch's own tests: a tenth of the image.
find "$prefix/lib" -depth -type d -name tests -exec rm -rf {} +
find "$prefix"/lib/python3.11/site-packages/torch -mindepth 1 -maxdepth 1 -name test -exec rm -rf {} +
find "$prefix"/lib/python3.11/site-packages/torch/bin -mindepth 1 ! -name torch_shm_manager -exec rm -rf {} +
"$source/scripts/image/settle.sh" "$prefix" "$prefix"
rm -rf "$work"
say "$(du -sm "$prefix" | cut -f1) MB in $prefix"
