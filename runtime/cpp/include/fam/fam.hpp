// libfam for C++17: a header-only wrapper of the C ABI (fam.h) whose objects are move-only.
//
//     fam::Pipeline pipeline("engines/demo");
//     fam::Request request("a green triangle on a cream background");
//     request.scale = 2;
//     const fam::Result result = pipeline.generate(request);
//     result.image(0).save_png("triangle.png");
//
// A call that fails throws fam::Error; what a callback throws comes out of the call it was called
// from.
#ifndef FAM_FAM_HPP_
#define FAM_FAM_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fam/fam.h"

namespace fam {

// What went wrong, in words: what | got | expected | what to do.
class Error : public std::runtime_error {
 public:
  Error(fam_status status, const std::string& words) : std::runtime_error(words), status_(status) {}
  fam_status status() const noexcept { return status_; }

 private:
  fam_status status_;
};

namespace detail {

inline void check(fam_status status) {
  if (status != FAM_OK) throw Error(status, fam_last_error());
}

inline const char* pointer_to(const std::optional<std::string>& text) {
  return text ? text->c_str() : nullptr;
}

}  // namespace detail

// How far a call is.
struct Progress {
  fam_phase phase;
  std::uint64_t step;  // done so far; 0 when the phase begins
  std::uint64_t total;
  std::uint64_t picture_index;  // first picture of the batch at work
  double timestep;
  const float* latent;  // [B, C, h, w], until the callback returns; null unless asked for
  std::array<std::uint64_t, 4> latent_shape;
};

// False cancels the call.
using ProgressCallback = std::function<bool(const Progress&)>;

namespace detail {

// A callback on its way through C, which no exception may cross.
class Trampoline {
 public:
  explicit Trampoline(const ProgressCallback& callback) : callback_(callback) {}

  fam_progress_callback function() const { return callback_ ? &call : nullptr; }

  // Throws what the callback threw, else what `status` says.
  void check(fam_status status) const {
    if (thrown_) std::rethrow_exception(thrown_);
    detail::check(status);
  }

 private:
  static int call(const fam_progress* progress, void* self) noexcept {
    auto& trampoline = *static_cast<Trampoline*>(self);
    try {
      const Progress shown{progress->phase,
                           progress->step,
                           progress->total,
                           progress->picture_index,
                           progress->timestep,
                           progress->latent,
                           {progress->latent_shape[0], progress->latent_shape[1],
                            progress->latent_shape[2], progress->latent_shape[3]}};
      return trampoline.callback_(shown) ? 0 : 1;
    } catch (...) {
      trampoline.thrown_ = std::current_exception();
      return 1;
    }
  }

  const ProgressCallback& callback_;
  std::exception_ptr thrown_;
};

}  // namespace detail

// What to make; what is left alone takes the bundle's default.
struct Request {
  Request() = default;
  explicit Request(std::string prompt) : prompts{std::move(prompt)} {}

  std::vector<std::string> prompts;
  std::vector<std::optional<std::string>> negative_prompts;  // none, one for all, or one per prompt
  double scale = 0;                                          // or two factors, or pixels
  double scale_width = 0;
  std::uint32_t height = 0;
  std::uint32_t width = 0;
  std::uint32_t num_inference_steps = 0;
  std::uint32_t num_images_per_prompt = 1;
  std::uint32_t pictures_per_batch = 1;
  std::optional<double> guidance_scale;
  std::optional<double> am_strength;
  std::optional<std::string> scheduler;
  std::optional<std::string> method;
  std::optional<std::string> noise;
  std::optional<std::string> native_attention;
  std::uint64_t seed = 0;            // picture i has seed + i
  std::vector<std::uint64_t> seeds;  // or one per picture
  bool draw_seed = false;            // or drawn by the system
  std::uint32_t tile = FAM_TILE_AUTO;
  std::uint32_t tile_overlap = 0;
  bool return_native = false;
  bool latents_only = false;
  bool watch_latents = false;
  ProgressCallback progress;
};

// A picture of a result, which must outlive it.
class Image {
 public:
  std::uint32_t height() const noexcept { return image_.height; }
  std::uint32_t width() const noexcept { return image_.width; }
  // [height, width, 3], rows without padding; null where nothing was decoded.
  const std::uint8_t* rgb() const noexcept { return image_.rgb; }
  std::size_t rgb_bytes() const noexcept {
    return image_.rgb == nullptr ? 0 : std::size_t{3} * image_.height * image_.width;
  }
  std::uint64_t seed() const noexcept { return image_.seed; }
  const char* settings_json() const noexcept { return image_.settings_json; }
  const float* latent() const noexcept { return image_.latent; }
  std::array<std::uint32_t, 3> latent_shape() const noexcept {
    return {image_.latent_channels, image_.latent_height, image_.latent_width};
  }
  void save_png(const std::string& path) const {
    detail::check(fam_result_save_png(result_, stage_, index_, path.c_str()));
  }

 private:
  friend class Result;
  Image(const fam_result* result, fam_stage stage, std::size_t index)
      : result_(result), stage_(stage), index_(index) {
    image_.struct_size = sizeof image_;
    detail::check(fam_result_image(result, stage, index, &image_));
  }

  const fam_result* result_;
  fam_stage stage_;
  std::size_t index_;
  fam_image image_{};
};

// Pictures, and how they came about.
class Result {
 public:
  std::size_t size(fam_stage stage = FAM_STAGE_TARGET) const noexcept {
    return fam_result_image_count(handle_.get(), stage);
  }
  Image image(std::size_t index, fam_stage stage = FAM_STAGE_TARGET) const {
    return Image(handle_.get(), stage, index);
  }
  std::vector<std::string> warnings() const {
    std::vector<std::string> sentences;
    for (std::size_t i = 0; i < fam_result_warning_count(handle_.get()); ++i) {
      sentences.emplace_back(fam_result_warning(handle_.get(), i));
    }
    return sentences;
  }
  std::string report_json() const { return fam_result_report_json(handle_.get()); }

 private:
  friend class Pipeline;
  explicit Result(fam_result* handle) : handle_(handle) {}

  struct Free {
    void operator()(fam_result* handle) const noexcept { fam_result_free(handle); }
  };
  std::unique_ptr<fam_result, Free> handle_;
};

struct PipelineOptions {
  fam_verify verify = FAM_VERIFY_FULL;
  std::optional<std::string> backend;
  std::optional<std::string> provider;
  std::uint32_t num_threads = 0;
  bool low_memory = false;
  std::uint32_t device_index = 0;
  std::optional<std::string> cache_dir;
  ProgressCallback progress;  // of the bundle's check
};

struct Size {
  std::uint32_t height;
  std::uint32_t width;
};

// A bundle, ready to make pictures, one at a time; cancel() is for other threads.
class Pipeline {
 public:
  explicit Pipeline(const std::string& path, const PipelineOptions& options = {}) {
    detail::Trampoline trampoline(options.progress);
    fam_pipeline_options given{};
    given.struct_size = sizeof given;
    given.verify = options.verify;
    given.backend = detail::pointer_to(options.backend);
    given.provider = detail::pointer_to(options.provider);
    given.num_threads = options.num_threads;
    given.low_memory = options.low_memory ? 1 : 0;
    given.device_index = options.device_index;
    given.cache_dir = detail::pointer_to(options.cache_dir);
    given.progress = trampoline.function();
    given.user_data = &trampoline;
    fam_pipeline* opened = nullptr;
    const fam_status status = fam_pipeline_open(path.c_str(), &given, &opened);
    handle_.reset(opened);
    trampoline.check(status);
  }

  Result generate(const Request& request) {
    detail::Trampoline trampoline(request.progress);
    std::vector<const char*> prompts;
    for (const std::string& prompt : request.prompts) prompts.push_back(prompt.c_str());
    std::vector<const char*> negatives;
    for (const auto& text : request.negative_prompts) negatives.push_back(detail::pointer_to(text));
    fam_request given = struct_from(request);
    given.prompts = prompts.empty() ? nullptr : prompts.data();
    given.prompt_count = prompts.size();
    if (negatives.size() == 1) {
      given.negative_prompt = negatives.front();
    } else if (!negatives.empty()) {
      if (negatives.size() != prompts.size()) {
        throw std::invalid_argument("as many negative prompts as prompts, or one for all");
      }
      given.negative_prompts = negatives.data();
    }
    given.progress = trampoline.function();
    given.user_data = &trampoline;
    fam_result* made = nullptr;
    const fam_status status = fam_generate(handle_.get(), &given, &made);
    Result result(made);
    trampoline.check(status);
    return result;
  }

  // From any thread: stops the call that is running, after the step it is in.
  void cancel() noexcept { fam_pipeline_cancel(handle_.get()); }
  // Frees every loaded graph, for a pause; the next call loads them again.
  void unload() { detail::check(fam_pipeline_unload(handle_.get())); }

  std::string name() const { return info().name; }
  std::string hash() const { return info().hash; }
  Size native() const { return {info().native_height, info().native_width}; }
  std::vector<Size> targets() const {
    std::vector<Size> sizes(info().target_count);
    for (std::uint32_t i = 0; i < sizes.size(); ++i) {
      detail::check(fam_pipeline_target(handle_.get(), i, &sizes[i].height, &sizes[i].width));
    }
    return sizes;
  }

 private:
  static fam_request struct_from(const Request& request) {
    fam_request given{};
    given.struct_size = sizeof given;
    given.num_images_per_prompt = request.num_images_per_prompt;
    given.scale = request.scale;
    given.scale_width = request.scale_width;
    given.height = request.height;
    given.width = request.width;
    given.num_inference_steps = request.num_inference_steps;
    given.pictures_per_batch = request.pictures_per_batch;
    given.guidance_scale = request.guidance_scale ? &*request.guidance_scale : nullptr;
    given.am_strength = request.am_strength ? &*request.am_strength : nullptr;
    given.scheduler = detail::pointer_to(request.scheduler);
    given.method = detail::pointer_to(request.method);
    given.noise = detail::pointer_to(request.noise);
    given.native_attention = detail::pointer_to(request.native_attention);
    given.seed = request.seed;
    given.seeds = request.seeds.empty() ? nullptr : request.seeds.data();
    given.seed_count = request.seeds.size();
    given.draw_seed = request.draw_seed ? 1 : 0;
    given.tile = request.tile;
    given.tile_overlap = request.tile_overlap;
    given.return_native = request.return_native ? 1 : 0;
    given.latents_only = request.latents_only ? 1 : 0;
    given.watch_latents = request.watch_latents ? 1 : 0;
    return given;
  }

  fam_bundle_info info() const {
    fam_bundle_info found{};
    found.struct_size = sizeof found;
    detail::check(fam_pipeline_bundle(handle_.get(), &found));
    return found;
  }

  struct Close {
    void operator()(fam_pipeline* handle) const noexcept { fam_pipeline_close(handle); }
  };
  std::unique_ptr<fam_pipeline, Close> handle_;
};

}  // namespace fam

#endif  // FAM_FAM_HPP_
