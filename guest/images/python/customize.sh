#!/bin/sh
# The Python image, with the tree's path as $1.
set -eu
root=$1
python() { chroot "$root" env -i PATH=/usr/bin:/usr/sbin python3 "$@"; }

# Debian's, which looks for a crash reporter that is not here, on every start. Ours has
# taken its place.
rm -f "$root"/etc/python3.11/sitecustomize.py

# Test suites, half of numpy. numpy.testing stays: numpy imports it.
find "$root"/usr/lib/python3 "$root"/usr/lib/python3.11 -type d -name tests -prune \
    -exec rm -rf {} +

# Everything compiled ahead: with time stamps, so that a source file edited in
# the guest is still noticed.
python -m compileall -q -j 0 --invalidation-mode timestamp \
    /usr/lib/python3.11 /usr/lib/python3/dist-packages
