"""What a user may choose, and what each refusal says."""

from __future__ import annotations

import argparse
import shlex
import types

import pytest

from fam_export.cli import main as export_main
from fam_runtime.backends.tensorrt import library as library_module
from fam_runtime.backends.tensorrt.architecture import (
    Gpu,
    architecture_from_text,
    choose_gpu,
)
from fam_runtime.backends.tensorrt.library import TensorrtLibrary, import_library
from fam_runtime.backends.tensorrt.settings import (
    BatchRange,
    BuildSettings,
    batch_range_from_text,
)
from fam_runtime.cli.engine_options import (
    add_engine_options,
    build_settings_from,
    given_engine_options,
)
from fam_runtime.errors import BackendError, InvalidRequest

TENSORRT = TensorrtLibrary("tensorrt", types.SimpleNamespace(), "10.9.0")


@pytest.mark.parametrize(
    ("text", "name"),
    [("sm89", "sm89"), ("SM_86", "sm86"), ("8.9", "sm89"), ("12.0", "sm120"), ("sm120", "sm120")],
)
def test_architectures_have_several_spellings(text: str, name: str) -> None:
    assert architecture_from_text(text) == name


@pytest.mark.parametrize("text", ["ada", "89", "8", "sm8", "8.9.1", ""])
def test_other_texts_are_no_architecture(text: str) -> None:
    with pytest.raises(InvalidRequest, match="compute capability such as sm89 or 8.9"):
        architecture_from_text(text)


L4 = ((8, 9), "NVIDIA L4")
H100 = ((9, 0), "NVIDIA H100")


def test_rtx_lists_the_gpus_it_builds_for(rtx: TensorrtLibrary) -> None:
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(rtx.architectures)
    assert choose_gpu(rtx, "8.6", None) == Gpu("sm86")
    assert choose_gpu(rtx, None, L4) == Gpu("sm89"), "one plan serves all GPUs of an architecture"
    assert choose_gpu(rtx, "sm86", L4) == Gpu("sm86")


def test_rtx_without_gpu_asks_which(rtx: TensorrtLibrary) -> None:
    with pytest.raises(BackendError, match="no GPU to build .* engines for.*--gpu-arch sm75 or sm"):
        choose_gpu(rtx, None, None)


def test_rtx_refuses_what_it_does_not_list(rtx: TensorrtLibrary) -> None:
    with pytest.raises(BackendError, match="not build for.*'sm90'.*--backend tensorrt on this GPU"):
        choose_gpu(rtx, None, H100)
    with pytest.raises(BackendError, match="not build for.*'sm999'.*name one of these"):
        choose_gpu(rtx, "sm999", L4)


def test_tensorrt_builds_for_the_gpu_that_is_there() -> None:
    assert choose_gpu(TENSORRT, None, H100) == Gpu("sm90", "NVIDIA H100"), "it times kernels there"
    assert choose_gpu(TENSORRT, "9.0", H100) == choose_gpu(TENSORRT, None, H100)
    with pytest.raises(BackendError, match="builds for the GPU it runs on.*'sm80'.*expected sm90"):
        choose_gpu(TENSORRT, "sm80", H100)
    for wanted in (None, "sm90"):
        with pytest.raises(BackendError, match="no GPU to build TensorRT engines for.*times kern"):
            choose_gpu(TENSORRT, wanted, None)


def test_a_missing_library_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(library_module, "import_module", absent)
    with pytest.raises(BackendError, match=r"TensorRT cannot be imported.*not come from PyPI"):
        import_library("tensorrt")
    with pytest.raises(BackendError, match=r"tensorrt_rtx_bindings.*fam-diffusion\[tensorrt-rtx\]"):
        import_library("tensorrt-rtx")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (types.SimpleNamespace(__version__="10.9"), "no Builder in it"),
        (
            types.SimpleNamespace(__version__="8.6.1", Builder=object),
            "too old.*'8.6.1'.*10.2 or new",
        ),
    ],
)
def test_a_library_that_cannot_build_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: object, message: str
) -> None:
    monkeypatch.setattr(library_module, "import_module", lambda name: module)
    with pytest.raises(BackendError, match=message):
        import_library("tensorrt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", (4, 4, 4)), ("1:4", (1, 4, 4)), ("1:2:4", (1, 2, 4))],
)
def test_batch_ranges(text: str, expected: tuple[int, int, int]) -> None:
    found = batch_range_from_text(text)
    assert (found.minimum, found.optimum, found.maximum) == expected
    assert expected[0] in found
    assert expected[2] + 1 not in found


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "0", "4:1", "1:5:4"])
def test_other_texts_are_no_batch_range(text: str) -> None:
    with pytest.raises(InvalidRequest, match="range of batches.*--batch 1:1:4"):
        batch_range_from_text(text)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="workspace is too small.*got 1"):
        BuildSettings(workspace_bytes=1)
    with pytest.raises(InvalidRequest, match="unknown optimization level.*got 9.*0 to 5"):
        BuildSettings(optimization_level=9)


def test_float32_means_float32_unless_the_bundle_is_in_half_precision() -> None:
    assert not BuildSettings().uses_tf32("fp32")
    assert BuildSettings().uses_tf32("fp16")
    assert BuildSettings(tf32=True).uses_tf32("fp32")
    assert not BuildSettings(tf32=False).uses_tf32("bf16")


def test_options_of_the_command_line() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_engine_options(parser.add_argument_group("engines"))
    assert build_settings_from(parser.parse_args([])) == BuildSettings()
    given = "--batch 1:2 --workspace 2G --no-tf32 --optimization-level 5 --strip-weights"
    expected = BuildSettings(BatchRange(1, 2, 2), False, 2 << 30, 5, True)
    assert build_settings_from(parser.parse_args(given.split())) == expected
    with pytest.raises(argparse.ArgumentError, match="the range of batches"):
        parser.parse_args(["--batch", "4:1"])


@pytest.mark.parametrize("option", ["--gpu-arch sm89", "--batch 2", "--no-tf32", "--cache-dir x"])
def test_engine_options_without_an_engine_backend_are_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_main(["--scale", "2", *option.split()]) == 2
    said = capsys.readouterr().err
    assert f"these options are about engines | got '{option}" in said
    assert "expected --backend tensorrt or tensorrt-rtx" in said


def test_engine_options_are_repeated_for_the_next_command() -> None:
    text = "--cache-dir 'a b' --batch 1:2:2 --workspace 2147483648 --no-tf32 --strip-weights"
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--gpu-arch", default="sm89")
    add_engine_options(parser.add_argument_group("engines"))
    assert given_engine_options(parser.parse_args(shlex.split(text))) == text
