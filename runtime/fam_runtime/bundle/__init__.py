"""Bundles: their manifest, reading them safely, publishing them at once (docs/bundle_format.md)."""

from fam_runtime.bundle._export_command import export_command
from fam_runtime.bundle.integrity import file_record, verify_file
from fam_runtime.bundle.kernels import KernelTables
from fam_runtime.bundle.manifest import (
    MANIFEST_NAME,
    NATIVE_GRAPH,
    TENSOR_DTYPE_BYTES,
    Defaults,
    FileRecord,
    FrequencyModulationInfo,
    GeneratorInfo,
    GraphSpec,
    LoraInfo,
    Manifest,
    ModelInfo,
    PixelSize,
    TapLayer,
    Taps,
    Target,
    TensorSpec,
    TextEncoderInfo,
    UpsampleInfo,
    VaeInfo,
    noise_schedule_from_config,
    scale_text,
)
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_OF_MODEL, ModelDtype
from fam_runtime.bundle.publish import (
    add_files,
    publish_directory,
    remove_temporary_files,
    write_atomically,
)
from fam_runtime.bundle.reader import Bundle

__all__ = [
    "MANIFEST_NAME",
    "NATIVE_GRAPH",
    "TENSOR_DTYPE_BYTES",
    "TENSOR_DTYPE_OF_MODEL",
    "Bundle",
    "Defaults",
    "FileRecord",
    "FrequencyModulationInfo",
    "GeneratorInfo",
    "GraphSpec",
    "KernelTables",
    "LoraInfo",
    "Manifest",
    "ModelDtype",
    "ModelInfo",
    "PixelSize",
    "TapLayer",
    "Taps",
    "Target",
    "TensorSpec",
    "TextEncoderInfo",
    "UpsampleInfo",
    "VaeInfo",
    "add_files",
    "export_command",
    "file_record",
    "noise_schedule_from_config",
    "publish_directory",
    "remove_temporary_files",
    "scale_text",
    "verify_file",
    "write_atomically",
]
