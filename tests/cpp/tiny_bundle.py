"""``python -m tests.cpp.tiny_bundle FOLDER``: a tiny random SD 1.5 at 2x, for C++ tests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fam_export.checkpoint import open_checkpoint
from fam_export.exporter import export
from fam_export.options import ExportOptions
from tests.checkpoints import make_checkpoint


def main() -> None:
    """Make the bundle."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny"
        make_checkpoint("sd15", checkpoint, seed=0)
        options = ExportOptions()
        export(open_checkpoint(checkpoint), Path(sys.argv[1]), scales=("2",), options=options)


if __name__ == "__main__":
    main()
