"""``fam-bench`` from a checkout: ``python benchmarks/gpu_check.py BUNDLE``.

For a machine, such as one with a GPU, where the project is not installed.
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
    from fam_bench.latency.command import main

    raise SystemExit(main())
