"""What fam-triton writes: models, their files, versions, and nothing outside the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.bundle import Bundle
from fam_runtime.cli.triton import main
from fam_runtime.errors import BackendError, BundleError, InvalidRequest
from fam_runtime.triton.config_text import Comment, Keyword, text_from_message
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from fam_runtime.triton.served.parameters import confined_folder
from tests.runtime.fake_bundle import write_bundle

GRAPHS = {
    "fam_diffusion_text_encoder",
    "fam_diffusion_unet_native",
    "fam_diffusion_unet_target_128x128",
    "fam_diffusion_unet_target_128x256",
    "fam_diffusion_unet_upsample_128x128",
    "fam_diffusion_unet_upsample_128x256",
    "fam_diffusion_vae_decoder",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "fake")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_pipeline_layout_holds_the_bundle_itself(bundle: Path, tmp_path: Path) -> None:
    written = write_repository(bundle, tmp_path / "models", RepositoryOptions())
    assert written.models == ("fam_diffusion",)
    copy = tmp_path / "models/fam_diffusion/1/bundle"
    assert files_of(copy) == files_of(bundle)
    assert Bundle.open(copy).hash == Bundle.open(bundle).hash
    assert written.bytes == sum(len(data) for data in files_of(tmp_path / "models").values())


def test_the_engines_layout_has_every_graph_once(bundle: Path, tmp_path: Path) -> None:
    options = RepositoryOptions(layout="engines", variant="both")
    written = write_repository(bundle, tmp_path / "models", options)
    assert set(written.models) == GRAPHS | {"fam_diffusion", "fam_diffusion_stream"}
    assert written.models[-2:] == ("fam_diffusion", "fam_diffusion_stream")
    for name in GRAPHS:
        onnx = [file for file in files_of(tmp_path / "models" / name) if file.endswith(".onnx")]
        assert len(onnx) == 1
    sampler = files_of(tmp_path / "models/fam_diffusion")
    assert not [file for file in sampler if file.endswith((".onnx", ".bin"))]
    assert "1/bundle/tokenizer/tokenizer.json" in sampler


def test_the_onnxruntime_platform_has_files_as_that_backend_looks_for_them(
    bundle: Path, tmp_path: Path
) -> None:
    options = RepositoryOptions(layout="engines", engine_platform="onnxruntime")
    write_repository(bundle, tmp_path / "models", options)
    model = files_of(tmp_path / "models/fam_diffusion_unet_native")
    assert {"1/native.onnx", "config.pbtxt"} <= model.keys()
    assert not [file for file in model if file.endswith(".py")]
    config = model["config.pbtxt"].decode()
    assert 'backend: "onnxruntime"' in config
    assert 'default_model_filename: "native.onnx"' in config
    assert model["1/native.onnx"] == (bundle / "unet/native.onnx").read_bytes()


def test_a_version_is_added_and_never_replaced(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_repository(bundle, root, RepositoryOptions())
    before = files_of(root / "fam_diffusion/1")
    other_bundle = write_bundle(tmp_path / "other", guidance=False)
    with pytest.raises(InvalidRequest, match=r"fam_diffusion/1.*--model-version 2"):
        write_repository(other_bundle, root, RepositoryOptions())
    write_repository(bundle, root, RepositoryOptions(version=2, keep_versions=2))
    assert files_of(root / "fam_diffusion/1") == before
    assert Bundle.open(root / "fam_diffusion/2/bundle")
    assert "num_versions: 2" in (root / "fam_diffusion/config.pbtxt").read_text()
    other = write_repository(bundle, root, RepositoryOptions(name="other"))
    assert other.models == ("other",)
    assert sorted(path.name for path in root.iterdir()) == ["fam_diffusion", "other"]


@pytest.mark.parametrize("layout", ["pipeline", "engines"])
def test_a_damaged_bundle_leaves_nothing_behind(layout: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    graph = bundle / "vae_decoder/model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    options = RepositoryOptions(layout=layout)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"vae_decoder/model\.onnx"):
        write_repository(bundle, tmp_path / "models", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_half_precision_without_numpy_type_has_no_engines_layout(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", dtype="bf16")
    with pytest.raises(BackendError, match="layout engines cannot serve a bundle in bf16"):
        write_repository(bundle, tmp_path / "models", RepositoryOptions(layout="engines"))


@pytest.mark.parametrize("place", ["bundle", "bundle/models", "file", "file/models", "/"])
def test_a_repository_is_a_folder_of_its_own(bundle: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "bundle").symlink_to(bundle)
    (tmp_path / "file").write_text("")
    before = files_of(bundle)
    with pytest.raises(InvalidRequest, match="outside the bundle"):
        write_repository(tmp_path / "bundle", tmp_path / place, RepositoryOptions())
    assert files_of(bundle) == before


@pytest.mark.parametrize(
    "name",
    ["", "../up", "a/b", "a b", 'a"', "a\nb", ".hidden", "1st", "ä", "x" * 65, "a.b", "a_stream"],
)
def test_names_that_could_leave_the_repository_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="the model's name cannot be used"):
        RepositoryOptions(name=name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("layout", "split"),
        ("variant", "half"),
        ("backend", "../lib"),
        ("provider", "tpu"),
        ("verify", "no"),
        ("version", 0),
        ("version", 2**31),
        ("keep_versions", 0),
        ("instances", 65),
        ("pictures_per_batch", 0),
        ("queue_size", -1),
        ("queue_timeout_s", float("nan")),
        ("max_steps", 0),
        ("threads", 0),
        ("response_cache_bytes", -1),
        ("memory_per_run_mib", -1),
        ("gpus", (0,)),
    ],
)
def test_options_that_no_server_could_use_are_refused(option: str, value: object) -> None:
    with pytest.raises(InvalidRequest):
        RepositoryOptions(**{option: value})  # type: ignore[arg-type]


ONNX_ENGINES = {"layout": "engines", "engine_platform": "onnxruntime"}


@pytest.mark.parametrize(
    ("option", "value", "others"),
    [
        ("engine_platform", "onnxruntime", {}),
        ("engine_instances", 2, {}),
        ("batch_delay_us", 1, {}),
        ("provider", "cuda", {"backend": "tensorrt"}),
        ("threads", 1, {"backend": "tensorrt"}),
        ("backend", "tensorrt", ONNX_ENGINES),
        ("low_memory", True, ONNX_ENGINES),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    option: str, value: object, others: dict[str, Any]
) -> None:
    RepositoryOptions(**others)
    with pytest.raises(InvalidRequest, match=f"--{option.split('_us')[0].replace('_', '-')} would"):
        RepositoryOptions(**{option: value}, **others)


@pytest.mark.parametrize("folder", ["..", "../..", "/etc", "a/../../b", "link", "link/deep"])
def test_a_parameter_cannot_leave_the_versions_folder(folder: str, tmp_path: Path) -> None:
    version = tmp_path / "model/1"
    version.mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (version / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="not in the version's folder"):
        confined_folder(version, folder)
    (version / "bundle").mkdir()
    assert confined_folder(version, "bundle") == version / "bundle"


def test_text_cannot_end_its_field() -> None:
    hostile = 'x"\nbackend: "evil\\ \x00ü'
    text = text_from_message([("key", hostile), ("kind", Keyword("KIND_CPU")), ("on", True)])
    key, kind, on = text.splitlines()
    assert re.fullmatch(r'key: "([^"\\]|\\[0-7]{3})*"', key)
    octal = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), key[6:-1])
    assert octal.encode("latin-1").decode() == hostile
    assert (kind, on) == ("kind: KIND_CPU", "on: true")
    nested = text_from_message([("outer", [Comment("why\nand how"), ("n", 1), ("n", 2)])])
    assert nested == "outer {\n  # why\n  # and how\n  n: 1\n  n: 2\n}\n"


def test_the_command_line_says_what_it_wrote_and_how_to_serve_it(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [str(bundle), "--queue-size", "7", "--queue-timeout", "2.5", "--max-steps", "60"]
    assert main([*command, "--memory-per-run", "1.5G", "--response-cache", "64M"]) == 0
    config = Path("model_repository/fam_diffusion/config.pbtxt").read_text()
    assert "max_queue_size: 7" in config
    assert "default_timeout_microseconds: 2500000" in config
    assert 'string_value: "67108864"' in config
    said = capsys.readouterr().out
    assert "model_repository  version 1" in said
    assert "tritonserver --model-repository=model_repository --http-address=127.0.0.1" in said
    assert "--rate-limit-resource=gpu_memory_mib:" in said
    assert "region-prefix-name=fam_diffusion_" in said
    assert main(command) == 0
    assert "for all versions: response_cache_bytes 67108864 -> 0" in capsys.readouterr().out
    write_bundle(tmp_path / "other", guidance=False)
    assert main(["other"]) == 2
    assert "--model-version 2" in capsys.readouterr().err


def test_nobody_needs_more_than_to_read_it(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", RepositoryOptions())
    before = os.umask(0)
    os.umask(before)
    for file in (tmp_path / "models").rglob("*"):
        mode = file.stat().st_mode & 0o777
        assert mode == (0o777 if file.is_dir() else 0o666) & ~before
