"""Where `tritonserver` comes from: a Python environment that holds it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fam_bench.tritonserver.errors import TritonUnavailable

ROOT = Path(__file__).parents[3]
"""Of the source tree, where `make triton-env` puts the environment."""


@dataclass(frozen=True)
class TritonEnvironment:
    """A Python environment that holds `tritonserver`, the Python backend and the project.

    Attributes:
        bin: comes first on the server's PATH; so the backend's processes find this environment.
        tritonserver: the program.
        packages: the folder of installed packages.
        backend_files: what the Python backend's directory needs.
        library_folder: of a libpython outside the loader's own folders.
    """

    bin: Path
    tritonserver: Path
    packages: Path
    backend_files: tuple[Path, ...]
    library_folder: Path | None

    @classmethod
    def find(cls, root: Path | None = None) -> TritonEnvironment:
        """The one at `root`, else at `FAM_TRITON_ENV`, else what `make triton-env` makes.

        Raises:
            TritonUnavailable: no whole environment is there.
        """
        root = root or Path(os.environ.get("FAM_TRITON_ENV") or ROOT / ".venv-triton")
        python = root / "bin/python"
        if not python.exists():
            raise TritonUnavailable(
                f"no Triton server: {python} does not exist", fix="run `make triton-env`"
            )
        version, packages, library_folder = _facts_of(python)
        server = Path(packages) / "pytriton/tritonserver"
        tritonserver = server / "bin/tritonserver"
        files = (
            server / "backends/python/libtriton_python.so",
            server / "backends/python/triton_python_backend_utils.py",
            server / "python_backend_stubs" / version / "triton_python_backend_stub",
        )
        for file in (tritonserver, *files):
            if not file.is_file():
                raise TritonUnavailable(
                    f"no Triton server for Python {version}: {file} does not exist",
                    fix=f"remove {root} and run `make triton-env`",
                )
        folder = _library_folder(Path(library_folder), version)
        return cls(root.absolute() / "bin", tritonserver, Path(packages), files, folder)


def _facts_of(python: Path) -> list[str]:
    """Version, folder of packages and folder of libpython, as that Python itself says."""
    code = (
        "import json, sys, sysconfig as s; print(json.dumps(["
        "'%d.%d' % sys.version_info[:2], s.get_path('platlib'), s.get_config_var('LIBDIR') or '']))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise TritonUnavailable(f"no Triton server: {python} does not run", got=done.stderr.strip())
    return list(json.loads(done.stdout))


def _library_folder(folder: Path, version: str) -> Path | None:
    """Where libpython is, or None if the loader finds it by itself."""
    library = f"libpython{version}.so.1.0"
    if (folder / library).is_file():
        return folder
    try:
        ctypes.CDLL(library)
    except OSError:
        raise TritonUnavailable(
            f"no Triton server: its Python backend loads {library}, which neither {folder} nor "
            "the system has",
            fix=f"install it (Debian: apt-get install libpython{version})",
        ) from None
    return None
