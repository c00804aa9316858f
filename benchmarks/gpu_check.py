"""What a GPU makes of a bundle: ``python benchmarks/gpu_check.py BUNDLE``.

Runs from a checkout, too, on a machine where the project is not installed.
"""

import importlib.util
import os
import sys
from pathlib import Path

PACKAGE_FOLDERS = ("benchmarks", "runtime", "export", ".")


def find_packages() -> None:
    """Let this process and its children import the checkout's packages, unless they can."""
    if importlib.util.find_spec("fam_runtime") is not None:
        return
    root = Path(__file__).resolve().parents[1]
    folders = [str(root / folder) for folder in PACKAGE_FOLDERS]
    sys.path[:0] = folders
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *([inherited] if inherited else [])])


if __name__ == "__main__":
    find_packages()
    from fam_bench.gpu_check import main

    raise SystemExit(main())
