#include "engines/onnxruntime/provider.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"

namespace libfam {
namespace {

using Options = std::unordered_map<std::string, std::string>;

constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kProviders = {{
    {"cpu", "CPUExecutionProvider"},
    {"cuda", "CUDAExecutionProvider"},
    {"tensorrt", "TensorrtExecutionProvider"},
    {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"},
}};

bool is_available(const std::string& name) {
  const auto available = available_providers();
  return std::find(available.begin(), available.end(), name) != available.end();
}

// The C API takes keys and values as two arrays.
struct Entries {
  explicit Entries(const Options& options) {
    for (const auto& [key, value] : options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
  }
  std::vector<const char*> keys;
  std::vector<const char*> values;
};

void append_cuda(Ort::SessionOptions& options, const GpuPlace& place) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
      made, api.ReleaseCUDAProviderOptions);
  const Options chosen = {
      {"device_id", std::to_string(place.device_index)},
      // A session's arena never shrinks; doubling, it would hold much that nobody asked for.
      {"arena_extend_strategy", "kSameAsRequested"},
      {"use_tf32", place.tf32 ? "1" : "0"},
  };
  const Entries entries(chosen);
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda.get(), entries.keys.data(),
                                                  entries.values.data(), entries.keys.size()));
  Ort::ThrowOnError(
      api.UpdateCUDAProviderOptionsWithValue(cuda.get(), "user_compute_stream", place.stream));
  options.AppendExecutionProvider_CUDA_V2(*cuda);
}

void append_tensorrt(Ort::SessionOptions& options, const GpuPlace& place) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorRTProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&made));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)>
      tensorrt(made, api.ReleaseTensorRTProviderOptions);
  Options chosen = {
      {"device_id", std::to_string(place.device_index)},
      // It would put float32 parts of a graph into float16.
      {"trt_fp16_enable", "0"},
  };
  if (!place.engine_folder.empty()) {
    chosen.insert({{"trt_engine_cache_enable", "1"},
                   {"trt_engine_cache_path", place.engine_folder},
                   {"trt_timing_cache_enable", "1"},
                   {"trt_timing_cache_path", place.engine_folder}});
  }
  const Entries entries(chosen);
  Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(tensorrt.get(), entries.keys.data(),
                                                      entries.values.data(), entries.keys.size()));
  Ort::ThrowOnError(api.UpdateTensorRTProviderOptionsWithValue(
      tensorrt.get(), "user_compute_stream", place.stream));
  options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
}

void append_tensorrt_rtx(Ort::SessionOptions& options, const GpuPlace& place) {
  Options chosen = {
      {"device_id", std::to_string(place.device_index)},
      {"has_user_compute_stream", "1"},
      {"user_compute_stream", std::to_string(reinterpret_cast<std::uintptr_t>(place.stream))},
  };
  if (!place.engine_folder.empty()) chosen.emplace("nv_runtime_cache_path", place.engine_folder);
  options.AppendExecutionProvider(provider_name("tensorrt-rtx"), chosen);
}

Error cannot_load(const std::string& name, const Ort::Exception& error) {
  return {ErrorCode::backend,
          {.what = "onnxruntime lists " + name + ", and cannot load it",
           .got = repr(error.what()),
           .expected = name,
           .fix = "install the libraries that it was built for (CUDA and cuDNN, and TensorRT for "
                  "its providers), or use the provider cpu"}};
}

}  // namespace

std::string provider_name(const std::string& provider) {
  std::vector<std::string> known;
  for (const auto& [ours, theirs] : kProviders) {
    if (provider == ours) return std::string(theirs);
    known.emplace_back(ours);
  }
  throw Error(ErrorCode::invalid_request, {.what = "unknown provider of the onnxruntime backend",
                                           .got = repr(provider),
                                           .expected = joined(known, " or "),
                                           .fix = "use cpu, the default"});
}

void check_provider(const std::string& provider) {
  const std::string name = provider_name(provider);
  if (is_available(name)) return;
  throw Error(ErrorCode::backend, {.what = "this onnxruntime has no " + name,
                                   .got = repr(joined(available_providers(), ", ")),
                                   .expected = name,
                                   .fix = "use an onnxruntime library that was built with it, or "
                                          "the provider cpu"});
}

void append_gpu_provider(Ort::SessionOptions& options, const std::string& provider,
                         const GpuPlace& place) {
  std::string name = provider_name(provider);
  try {
    if (provider == "tensorrt") append_tensorrt(options, place);
    if (provider == "tensorrt-rtx") append_tensorrt_rtx(options, place);
    name = provider_name("cuda");
    if (provider == "cuda" || is_available(name)) append_cuda(options, place);
  } catch (const Ort::Exception& error) {
    throw cannot_load(name, error);
  }
}

}  // namespace libfam
