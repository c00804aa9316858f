"""Whether this server's Python backend can read the NumPy that it found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fam_runtime.errors import BackendError

_OLD_IMPORT = b"numpy.core.multiarray"
"""What pybind11 imports if it was built before it knew NumPy 2; later ones join the name."""


def check_numpy(version: str = np.__version__, program: Path = Path("/proc/self/exe")) -> None:
    """Refuse NumPy 2 under a backend that was built before it.

    Such a backend sees every array as empty: it answers with nothing, or dies in the first request.

    Args:
        version: of NumPy.
        program: the backend's own, which runs this.

    Raises:
        BackendError: it is so.
    """
    if int(version.split(".")[0]) < 2:
        return
    try:
        old = _OLD_IMPORT in program.read_bytes()
    except OSError:  # not on Linux: nothing is known
        return
    if old:
        raise BackendError(
            "this server's Python backend was built before NumPy 2 and cannot read its arrays",
            got=f"numpy {version}",
            expected="numpy 1",
            fix="pip install 'numpy<2' in the server's Python, or take a newer server",
        )
