#!/bin/sh
# Remove caches, package lists, logs and build tools; compiler.sh says why the C compiler stays. Runs in the image, as root. Nothing in
# /tmp, /var/tmp or home, here and in the other scripts: `apptainer build` shows the machine's own there, and root's %post would delete
# other people's files.
set -eu
tools=$(dpkg-query -W -f '${binary:Package}\n' git g++ make python3-pip python3-venv python3.11-venv 2>/dev/null || true)
# Debian's Python may be in the base only because a tool that is removed needs it.
apt-mark manual python3.11 >/dev/null 2>&1 || true
# shellcheck disable=SC2086  # a list of names
[ -z "$tools" ] || DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq --auto-remove $tools >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
