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

# On PVM hosts the guest kernel does not save YMM and ZMM registers, but CPUID
# shows AVX. Which code numpy chooses at run time depends on how it was built:
# ask it, since naming a feature it does not know is an error.
mkdir -p "$root"/usr/lib/hyperfork
{
    python -c '
from numpy.core._multiarray_umath import __cpu_dispatch__
wide = [f for f in __cpu_dispatch__ if f.startswith(("AVX", "FMA")) or f in ("F16C", "XOP")]
print("NPY_DISABLE_CPU_FEATURES=" + ",".join(wide))'
    # For an OpenBLAS that is installed later: its last code without AVX.
    echo "OPENBLAS_CORETYPE=Nehalem"
    # libcrypto, which hashlib uses: without FMA, XOP, AVX; AVX2, AVX512*, VAES
    # and VPCLMULQDQ (OPENSSL_ia32cap(3)).
    echo "OPENSSL_ia32cap=~0x1000180000000000:~0x600d0230020"
} > "$root"/usr/lib/hyperfork/pvm.env
