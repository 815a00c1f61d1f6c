#!/bin/sh
# Make sure that Python 3.11 is installed: the base image's own, or Debian's.
set -eu
command -v python3.11 >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "image: the base image has no python3.11 and no apt-get to install it with" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3.11 >/dev/null ||
    { echo "image: the base image offers no python3.11: use a Debian 12 or python:3.11 base" >&2; exit 1; }
