"""What fam-triton does where something is there already: models, versions, what a kill left."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.bundle import Bundle, Manifest
from fam_runtime.errors import BundleDamaged, InvalidRequest, StorageError
from fam_runtime.triton import repository, version_folder
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from fam_runtime.triton.repository_place import LOCK_NAME
from tests.runtime.fake_bundle import write_bundle
from tests.triton.test_repository import files_of

ENGINES: dict[str, Any] = {"layout": "engines"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "fake")


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tensors."""
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "other")
    return with_manifest(root, lambda m: dataclasses.replace(m.model, name="other"), "model")


def with_manifest(root: Path, change: Any, part: str) -> Path:
    file = root / "manifest.json"
    manifest = Manifest.from_bytes(file.read_bytes())
    file.write_bytes(dataclasses.replace(manifest, **{part: change(manifest)}).to_bytes())
    return root


def without_a_target(root: Path) -> Path:
    """The bundle with its first target only."""
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    gone = manifest.targets[1]
    changed = dataclasses.replace(
        manifest,
        targets=manifest.targets[:1],
        graphs={n: g for n, g in manifest.graphs.items() if n not in (gone.step, gone.upsample)},
        files={
            n: f
            for n, f in manifest.files.items()
            if n not in (gone.step, gone.upsample, gone.kernels)
        },
    )
    (root / "manifest.json").write_bytes(changed.to_bytes())
    return root


def refused(bundle: Path, root: Path, words: str, **options: Any) -> None:
    """Writing is refused with `words`, and changes nothing."""
    before = files_of(root)
    with pytest.raises(InvalidRequest, match=words):
        write_repository(bundle, root, RepositoryOptions(**options))
    assert files_of(root) == before


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("config", ['name: "resnet"', None])
def test_another_programs_model_is_left_alone(
    bundle: Path, tmp_path: Path, config: str | None, version: int
) -> None:
    model = tmp_path / "resnet/1/model.onnx"
    model.parent.mkdir(parents=True)
    model.write_text("weights")
    if config is not None:
        (tmp_path / "resnet/config.pbtxt").write_text(config)
    refused(bundle, tmp_path, "did not write.*another --name", name="resnet", version=version)
    write_repository(bundle, tmp_path, RepositoryOptions(name="ours"))
    assert model.read_text() == "weights"


def test_one_models_graph_is_not_another_models_picture(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path, RepositoryOptions(name="a_text_encoder"))
    words = "the picture of a_text_encoder.*another --name"
    refused(bundle, tmp_path, words, name="a", version=2, **ENGINES)
    write_repository(bundle, tmp_path, RepositoryOptions(name="b", **ENGINES))
    words = r"the graph text_encoder/model\.onnx of b"
    refused(bundle, tmp_path, words, name="b_text_encoder", version=2)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({}, {"keep_versions": 2, **ENGINES}, "one layout.*--keep-versions 1"),
        ({"variant": "both"}, {}, "fam_diffusion_stream would stay at version 1.*--variant both"),
        (ENGINES, {**ENGINES, "engine_platform": "onnxruntime"}, "one engine platform"),
        ({"version": 5}, {}, "version 2 would never be served.*--model-version 6, or --keep-ver"),
    ],
)
def test_a_new_version_suits_the_old_one(
    bundle: Path, tmp_path: Path, first: dict[str, Any], then: dict[str, Any], words: str
) -> None:
    write_repository(bundle, tmp_path, RepositoryOptions(**first))
    refused(bundle, tmp_path, words, **{"version": 2, **then})


def test_versions_are_warmed_up_at_sizes_that_all_have(bundle: Path, tmp_path: Path) -> None:
    small = without_a_target(write_bundle(tmp_path / "small"))
    for layout, model in (("pipeline", "x"), ("engines", "y_vae_decoder")):
        options = RepositoryOptions(layout=layout, name=model[0])  # type: ignore[arg-type]
        write_repository(small, tmp_path / "m", options)
        config = tmp_path / f"m/{model}/config.pbtxt"
        alone = config.read_text()
        both = dataclasses.replace(options, version=2, keep_versions=2)
        write_repository(bundle, tmp_path / "m", both)
        assert config.read_text().count("model_warmup") == alone.count("model_warmup") == 1
        after = dataclasses.replace(options, version=3, name=model[0] + "2")
        write_repository(bundle, tmp_path / "m", after)
        config = tmp_path / f"m/{model.replace(model[0], model[0] + '2', 1)}/config.pbtxt"
        assert config.read_text().count("model_warmup") == 2
    # The old version decodes one size; its configuration now also holds for the other one's.
    assert "dims: 16" in alone and "dims: -1" not in alone
    assert "dims: -1" in (tmp_path / "m/y_vae_decoder/config.pbtxt").read_text()


def test_a_smaller_new_version_leaves_the_old_one_its_sizes(bundle: Path, tmp_path: Path) -> None:
    small = without_a_target(write_bundle(tmp_path / "small"))
    write_repository(bundle, tmp_path / "m", RepositoryOptions(**ENGINES))
    write_repository(small, tmp_path / "m", RepositoryOptions(version=2, **ENGINES))
    config = (tmp_path / "m/fam_diffusion_vae_decoder/config.pbtxt").read_text()
    assert "dims: -1" in config
    assert config.count("model_warmup") == 1


def test_graphs_with_other_tensors_do_not_share_a_configuration(
    bundle: Path, tmp_path: Path
) -> None:
    sdxl = write_bundle(tmp_path / "sdxl", family="sdxl")
    write_repository(bundle, tmp_path / "m", RepositoryOptions(**ENGINES))
    refused(sdxl, tmp_path / "m", "other inputs or outputs.*another --name", version=2, **ENGINES)
    write_repository(bundle, tmp_path / "n", RepositoryOptions())
    write_repository(sdxl, tmp_path / "n", RepositoryOptions(version=2, keep_versions=2))


def test_the_last_options_hold_for_all_versions_and_are_told(
    bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    first = RepositoryOptions(queue_size=3, variant="both", keep_versions=2)
    assert write_repository(bundle, tmp_path, first).changes == ()
    later = RepositoryOptions(variant="both", keep_versions=2, version=2, max_steps=9)
    written = write_repository(other_bundle, tmp_path, later)
    assert written.changes == ("queue_size 3 -> none", "max_steps none -> 9")
    assert written.kept == ()
    again = write_repository(other_bundle, tmp_path, dataclasses.replace(later, max_steps=8))
    assert again.kept == again.models
    assert (again.changes, again.bytes) == (("max_steps 9 -> 8",), 0)
    assert '"8"' in (tmp_path / "fam_diffusion/config.pbtxt").read_text()


@pytest.mark.parametrize("first", [None, 1])
def test_an_error_half_way_takes_everything_back(
    bundle: Path,
    other_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: int | None,
) -> None:
    root = tmp_path / "models"
    if first is not None:
        write_repository(bundle, root, RepositoryOptions(max_steps=7, **ENGINES))
    before = files_of(root)
    publish, calls = repository.publish_directory, []

    def fail_the_fourth(staged: Path, final: Path) -> None:
        calls.append(final)
        if len(calls) == 4:
            raise StorageError("no space") from OSError(errno.ENOSPC, "full")
        publish(staged, final)

    monkeypatch.setattr(repository, "publish_directory", fail_the_fourth)
    options = RepositoryOptions(version=2, **ENGINES)
    with pytest.raises(StorageError, match="no space"):
        write_repository(other_bundle, root, options)
    assert files_of(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["models"] if first else [])
    write_repository(other_bundle, root, options)
    assert Bundle.open(root / "fam_diffusion_vae_decoder/2/bundle", only=["vae_decoder/model.onnx"])


def test_a_second_run_finishes_what_a_killed_one_began(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    options = RepositoryOptions(**ENGINES)
    write_repository(bundle, root, options)
    whole = files_of(root)
    for name in ("fam_diffusion", "fam_diffusion_vae_decoder"):
        shutil.rmtree(root / name)
    stale = tmp_path / ".models.fam-triton-0123abcd.partial"
    (stale / "fam_diffusion/1").mkdir(parents=True)
    (root / LOCK_NAME).touch()
    cache = root / "fam_diffusion_unet_native/1/__pycache__"  # a server's Python wrote it
    cache.mkdir()
    (cache / "model.cpython-312.pyc").touch()
    written = write_repository(bundle, root, options)
    assert set(written.models) - set(written.kept) == {"fam_diffusion", "fam_diffusion_vae_decoder"}
    shutil.rmtree(cache)
    assert files_of(root) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_version_that_is_damaged_is_not_taken_for_whole(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path, RepositoryOptions())
    graph = tmp_path / "fam_diffusion/1/bundle/unet/native.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    refused(bundle, tmp_path, "already, with other files")


@pytest.mark.parametrize("link", ["", "1", "config.pbtxt", "warmup", "1/bundle"])
def test_links_in_the_repository_are_not_followed(bundle: Path, tmp_path: Path, link: str) -> None:
    write_repository(bundle, tmp_path / "m", RepositoryOptions())
    path = tmp_path / "m/fam_diffusion" / link
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(bundle, tmp_path / "m", "has a link", version=2)


def test_writers_come_one_after_the_other(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    done: list[object] = []
    options = RepositoryOptions()
    first = (root / LOCK_NAME).open("w")
    fcntl.flock(first, fcntl.LOCK_EX)
    writer = threading.Thread(
        target=lambda: done.append(write_repository(bundle, root, options)), daemon=True
    )
    writer.start()
    writer.join(0.5)
    assert writer.is_alive() and not done
    os.unlink(root / LOCK_NAME)  # as a writer does at its end
    with (root / LOCK_NAME).open("w") as second:
        fcntl.flock(second, fcntl.LOCK_EX)
        first.close()
        writer.join(0.5)
        assert writer.is_alive() and not done
        assert [path.name for path in root.iterdir()] == [LOCK_NAME]
        os.unlink(root / LOCK_NAME)
    writer.join(30)
    assert done
    assert [path.name for path in root.iterdir()] == ["fam_diffusion"]


@pytest.mark.parametrize("output", [".", "", "../models", "link"])
def test_any_name_of_the_folder_will_do(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / "link").symlink_to(root)
    monkeypatch.chdir(root)
    write_repository(bundle, output, RepositoryOptions())
    assert (root / "fam_diffusion/1/bundle/manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_mounted_folder_is_written_from_within(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    rename = Path.rename

    def across_disks(path: Path, target: Path) -> Path:
        if path.is_relative_to(root) != Path(target).is_relative_to(root):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across_disks)
    write_repository(bundle, root, RepositoryOptions())
    assert [path.name for path in root.iterdir()] == ["fam_diffusion"]
    monkeypatch.setattr(
        repository, "publish_directory", lambda staged, final: across_disks(staged, tmp_path / "x")
    )
    with pytest.raises(StorageError, match="all folders of a repository on one disk"):
        write_repository(bundle, root, RepositoryOptions(version=2))
    assert [path.name for path in root.iterdir()] == ["fam_diffusion"]


def test_a_bundle_that_changes_meanwhile_is_not_mixed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = shutil.copytree(bundle, tmp_path / "bundle")
    copy = version_folder._copy

    def change_and_copy(source: Path, target: Path) -> None:
        if source.name == "manifest.json":
            with_manifest(changing, lambda m: dataclasses.replace(m.model, name="new"), "model")
        copy(source, target)

    monkeypatch.setattr(version_folder, "_copy", change_and_copy)
    with pytest.raises(BundleDamaged, match="changed while it was copied"):
        write_repository(changing, tmp_path / "m", RepositoryOptions())
    assert not (tmp_path / "m").exists()
