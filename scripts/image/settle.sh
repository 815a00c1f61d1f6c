#!/bin/sh
# Make the files of FOLDER the same in every build: compile MODULES, and no time later than SOURCE_DATE_EPOCH.
#   settle.sh FOLDER MODULES [ROOT]: ROOT is what paths begin with here and not in the image
set -eu
folder=$1 modules=$2 root=${3:-}
# By hash, not by time: such a file is the same in every build. Unchecked: nothing in an image changes its source.
/opt/actiondiff/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash ${root:+-s "$root"} "$modules" || true
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
    find "$folder" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
fi
