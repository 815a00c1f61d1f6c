#!/usr/bin/env bash
# Install the tools that build and test the image without Docker (Debian or Ubuntu, as root). Used by `make image-test`.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "image: installing tools needs root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "image: installing tools needs apt-get" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    buildah podman runc uidmap netavark debootstrap shellcheck >/dev/null
