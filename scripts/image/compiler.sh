#!/bin/sh
# Install a C compiler and Python's headers. torch.compile on a GPU needs them at run time: Triton compiles the C module that starts its
# kernels. Runs in the image, as root, after `apt-get update`.
set -eu
# Left out is what that never reads, 140 of 230 MB: static libraries but those that end up in shared ones, sanitizers, link-time
# optimization, translations.
set --
for path in '*.a' '/usr/lib/*/lib*san.*' '*/lto1' '*lto-dump*' '/usr/share/locale/*'; do
    set -- "$@" -o "DPkg::Options::=--path-exclude=$path"
done
for path in '*/libgcc.a' '*/libc_nonshared.a'; do set -- "$@" -o "DPkg::Options::=--path-include=$path"; done

include=$(python3.11 -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))')
# Images of python:3.11 have the headers of their interpreter, which are not Debian's.
[ -f "$include/Python.h" ] || set -- "$@" libpython3.11-dev
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" gcc libc6-dev >/dev/null
echo '#include <Python.h>' | TMPDIR="${SOURCE:-/src}" gcc -x c -shared -fPIC -I"$include" -o /dev/null - ||
    { echo "image: the base's python3.11 has no headers in $include, or its gcc does not work" >&2; exit 1; }
