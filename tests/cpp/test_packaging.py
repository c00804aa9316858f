"""What an application does with libfam: find it, compile, link, and make a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fam_runtime.pipeline import FamPipeline
from tests.conftest import Exported
from tests.cpp.conftest import BUILD, built

CONSUMER = """
#include <fam/fam.hpp>
#include <fstream>

int main(int argc, char** argv) {
  if (argc < 3 || fam_abi_version() != FAM_ABI_VERSION) return 2;
  fam::PipelineOptions options;
  options.num_threads = 1;
  fam::Pipeline pipeline(argv[1], options);
  fam::Request request("a red circle");
  request.num_inference_steps = 2;
  request.seed = 3;
  const fam::Result result = pipeline.generate(request);
  const fam::Image image = result.image(0);
  std::ofstream(argv[2], std::ios::binary)
      .write(reinterpret_cast<const char*>(image.rgb()), static_cast<long>(image.rgb_bytes()));
}
"""

CMAKE = """
cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
find_package(fam 0.1 CONFIG REQUIRED)
add_executable(consumer consumer.cpp)
target_compile_features(consumer PRIVATE cxx_std_17)
target_link_libraries(consumer PRIVATE fam::fam)
"""


def run(command: Sequence[object], **environment: str) -> str:
    """Run a program to its end, which must be a good one; gives its standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libfam, installed."""
    built("libfam.so")
    prefix = tmp_path_factory.mktemp("prefix")
    run(["cmake", "--install", BUILD, "--prefix", prefix])
    return prefix


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """The sources of an application."""
    (tmp_path / "consumer.cpp").write_text(CONSUMER)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    return tmp_path


@pytest.fixture(scope="module")
def expected(tiny: Exported) -> bytes:
    """The picture that the application must make."""
    pipe = FamPipeline.from_pretrained(tiny.bundle, num_threads=1, progress=False)
    result = pipe("a red circle", seed=3, num_inference_steps=2)
    return np.asarray(result.images[0]).tobytes()


def check(program: Path, bundle: Path, expected: bytes) -> None:
    """Let an application make its picture."""
    output = program.parent / "picture.rgb"
    run([program, bundle, output])
    assert output.read_bytes() == expected


def test_find_package(prefix: Path, consumer: Path, tiny: Exported, expected: bytes) -> None:
    build = consumer / "build"
    run(["cmake", "-S", consumer, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", build])
    check(build / "consumer", tiny.bundle, expected)


def test_pkg_config(prefix: Path, consumer: Path, tiny: Exported, expected: bytes) -> None:
    (folder,) = prefix.glob("lib*/**/pkgconfig")
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    flags = run(["pkg-config", "--cflags", "--libs", "fam"], PKG_CONFIG_PATH=str(folder)).split()
    library = next(flag[2:] for flag in flags if flag.startswith("-L"))
    program = consumer / "consumer"
    source = consumer / "consumer.cpp"
    run(["c++", "-std=c++17", source, "-o", program, *flags, f"-Wl,-rpath,{library}"])
    check(program, tiny.bundle, expected)


def test_a_static_library(prefix: Path, consumer: Path, tiny: Exported, expected: bytes) -> None:
    """The same objects as an archive; find_package brings what it stands on."""
    text = CMAKE.replace("REQUIRED", "REQUIRED COMPONENTS static").replace(
        "fam::fam", "fam::static"
    )
    (consumer / "CMakeLists.txt").write_text(text)
    build = consumer / "build"
    run(
        [
            *("cmake", "-S", consumer, "-B", build, "-G", "Ninja"),
            *(
                f"-DCMAKE_PREFIX_PATH={prefix}",
                f"-DONNXRUNTIME_ROOT={BUILD.parent / 'onnxruntime'}",
            ),
        ]
    )
    run(["cmake", "--build", build])
    check(build / "consumer", tiny.bundle, expected)


def test_the_installed_program(
    prefix: Path, tiny: Exported, expected: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.png"
    program = prefix / "bin" / "fam_generate"
    command = [program, tiny.bundle, "a red circle", "--steps", 2, "--seed", 3, "--threads", 1]
    printed = run([*command, "-o", output])
    assert f"{output} (seed 3)" in printed
    assert np.asarray(Image.open(output)).tobytes() == expected


def test_the_prefix_holds_what_an_application_needs(prefix: Path) -> None:
    files = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()}
    names = {Path(name).name for name in files}
    assert {"fam.h", "fam.hpp", "famConfig.cmake", "famTargets.cmake", "fam.pc"} <= names
    assert {"libfam.so.0.1.0", "fam_generate"} <= names
    assert not any(name.endswith((".cpp", ".o")) for name in names)
    text = "".join(p.read_text() for p in prefix.rglob("*.pc"))
    assert str(prefix) not in text, "the prefix can be moved"
