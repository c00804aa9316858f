"""ONNX Runtime: the CPU, and CUDA through its execution provider."""

from fam_runtime.backends.onnxruntime.backend import OnnxruntimeBackend

__all__ = ["OnnxruntimeBackend"]
