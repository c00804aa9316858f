"""The runtime installs and generates where PyTorch, diffusers and transformers are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Exported

ROOT = Path(__file__).parents[2]
INSTALL_TIMEOUT_SECONDS = 300
FORBIDDEN = {"torch", "diffusers", "transformers", "onnx", "onnxscript"}


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel's plain install and its `cpu` extra."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    run(sys.executable, "-m", "venv", folder)
    pip = (folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", f"{ROOT}[cpu]")
    return folder


@pytest.mark.slow
def test_generates_without_torch(bare_environment: Path, tiny: Exported, tmp_path: Path) -> None:
    listed = run(bare_environment / "bin/python", "-m", "pip", "list", "--format", "json")
    assert not FORBIDDEN & {package["name"].lower() for package in json.loads(listed)}
    picture = tmp_path / "picture.png"
    command = (bare_environment / "bin/fam-generate", tiny.bundle, "a red circle")
    run(*command, "--steps", "2", "--seed", "0", "-o", picture, "--quiet")
    assert picture.read_bytes().startswith(b"\x89PNG")
    run(bare_environment / "bin/fam-inspect", tiny.bundle)


@pytest.mark.slow
def test_every_module_imports_without_any_library(bare_environment: Path) -> None:
    code = (
        "import importlib, pkgutil, sys, fam_runtime\n"
        "for module in pkgutil.walk_packages(fam_runtime.__path__, 'fam_runtime.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = {'onnxruntime', 'PIL', 'tokenizers', 'safetensors', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported at import time: {heavy}' if heavy else 0)\n"
    )
    run(bare_environment / "bin/python", "-c", code)
