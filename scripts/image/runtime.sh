#!/bin/sh
# What the finished image has beside /opt/actiondiff: Python, tini, a user, mount points. Runs in the image, as root.
set -eu
source=${SOURCE:-/src}

"$source/scripts/image/python.sh"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tini ca-certificates >/dev/null

# Any user may work here: the mount points belong to the image's own and are open to others, as a container's user is
# often somebody the image does not know.
id actiondiff >/dev/null 2>&1 || useradd --uid 10001 --user-group --create-home --shell /bin/sh actiondiff
mkdir -p /data /checkpoints /workspace
chown actiondiff:actiondiff /workspace
"$source/scripts/image/clean.sh"
