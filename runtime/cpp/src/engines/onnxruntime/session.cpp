#include "engines/onnxruntime/session.h"

#include "base/error.h"
#include "engines/free_memory.h"
#include "engines/onnxruntime/onnxruntime_error.h"

namespace libfam {
namespace {

// Optimizers of ONNX Runtime that copy weights: convolutions' into a blocked layout (with 240 MB of
// them the process took 510 MB instead of 330), and every float16 weight into a float32 one.
constexpr const char* kCopyingOptimizers =
    "NchwcTransformer;FuseFp16InitializerToFp32NodeTransformer";

void use_low_memory(Ort::SessionOptions& options, const SharedWeights* weights) {
  // All conversions of float16 weights run first, and their results wait: measured with 115 MB of
  // weights, 380 MB. The Python package asks for another order (ExecutionOrder.PRIORITY_BASED),
  // with which it takes 210 MB; the C API does not offer it.
  options.DisableCpuMemArena();
  options.AddConfigEntry("session.disable_prepacking", "1");
  options.AddConfigEntry("optimization.disable_specified_optimizers", kCopyingOptimizers);
  free_large_blocks_at_once();
  if (weights != nullptr) weights->add_to(options);
}

Ort::SessionOptions session_options(const SessionSettings& settings, const SharedWeights* weights,
                                    const std::optional<GpuPlace>& gpu) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  // Fixed, because the level decides which operators are fused and so the last bits.
  options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  options.SetDeterministicCompute(true);
  // Threads that spin while they wait win a little on an idle machine and lose much on a busy one
  // (a demo step on 2 busy cores: 250 ms spinning, 150 ms waiting, 135 ms on one thread).
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");
  if (settings.num_threads != 0) options.SetIntraOpNumThreads(settings.num_threads);
  if (settings.low_memory) use_low_memory(options, weights);
  if (gpu) append_gpu_provider(options, settings.provider, *gpu);
  return options;
}

}  // namespace

void SessionSettings::check() const {
  provider_name(provider);
  if (num_threads < 0) {
    throw Error(ErrorCode::invalid_request, {.what = "num_threads is too small",
                                             .got = repr(num_threads),
                                             .expected = "at least 1, or 0 for one per core",
                                             .fix = "leave it out"});
  }
}

Ort::Session open_session(const Ort::Env& environment, const std::filesystem::path& path,
                          const SessionSettings& settings, const SharedWeights* weights,
                          const std::optional<GpuPlace>& gpu) {
  try {
    return {environment, path.c_str(), session_options(settings, weights, gpu)};
  } catch (const Ort::Exception& error) {
    throw error_from_onnxruntime("onnxruntime cannot load " + path.filename().string(), error);
  }
}

}  // namespace libfam
