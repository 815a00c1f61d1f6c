#!/bin/sh
# Install what the final image needs besides /opt/actiondiff: Python, tini, bsdtar (UCF101 is a rar archive), a C compiler, a user, mount
# points, and the list of Debian's packages with their licences. Runs in the image, as root.
set -eu
source=${SOURCE:-/src}
[ -n "${SOURCE_DATE_EPOCH:-}" ] || unset SOURCE_DATE_EPOCH
# Its time is that of the start: every later file is one that apt or useradd wrote here.
started=$source/started
: >"$started"

"$source/scripts/image/python.sh"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tini ca-certificates libarchive-tools >/dev/null
"$source/scripts/image/compiler.sh"

# /workspace belongs to the image's user. All mount points are open to other users, because a container often runs as a user
# that the image does not know.
id actiondiff >/dev/null 2>&1 || useradd --uid 10001 --user-group --create-home --shell /bin/sh actiondiff
mkdir -p /data /checkpoints /workspace /usr/share/sbom
chown actiondiff:actiondiff /workspace
"$source/scripts/image/clean.sh"
python3.11 -B "$source/scripts/image/sbom.py" debian >/usr/share/sbom/debian.cdx.json

# The base's own files keep their times, or this layer would contain them all; so do those in folders that may be the machine's.
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
    find /etc /usr /var /home /data /checkpoints /workspace -xdev \
        \( -path /var/tmp -o -path '/home/*' ! -path '/home/actiondiff*' \) -prune -o \
        -newer "$started" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
fi
