"""Imported by `site` at each start of Python; `python3 -S` goes without."""

import _warnings
import os


class _OfAbsentFeatures:
    """Numpy warns of what it is told to do without (pvm.env) where the processor has not got
    it. In place of a pattern, for the module with those takes long to import."""

    @staticmethod
    def match(text):
        return text.startswith("During parsing environment variable")


if "NPY_DISABLE_CPU_FEATURES" in os.environ:
    _warnings.filters.insert(0, ("ignore", _OfAbsentFeatures, RuntimeWarning, None, 0))
