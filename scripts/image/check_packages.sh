#!/bin/sh
# Check that what is installed needs nothing that is not: `check_packages.sh PIP...`, where PIP is the command that runs pip for the
# environment. Prints what is missing, and then exits 1.
set -u
found=$("$@" check 2>&1) && exit 0
# From version 24.1 on, pip also compares the Python that a wheel's metadata names. decord's names the 3.6 it was built with, while the
# wheel is for any Python 3, as its file name says, and loads its library with ctypes.
left=$(printf '%s\n' "$found" | grep -v '^decord [0-9.]* is not supported on this platform$')
[ -n "$left" ] || exit 0
printf '%s\n' "$left"
exit 1
