"""Imported by `site` at each start of Python; `python3 -S` goes without."""

import os
import sys
from _frozen_importlib_external import PathFinder


class _WithGenerators:
    """Finds some modules as usual, and has them watched once they are imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("random", "_ssl", "uuid"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and os.path.exists("/run/hyperfork/generation"):
            imported = spec.loader.exec_module

            def exec_module(module):
                imported(module)
                from _hyperfork_renewal import watch

                watch[name](module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _WithGenerators)
