#!/usr/bin/env bash
# Install what builds and checks the image without Docker: Debian or Ubuntu, as root. `make image-test` uses them.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "image: installing tools needs root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "image: installing tools needs apt-get" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    buildah podman runc uidmap netavark debootstrap shellcheck >/dev/null
