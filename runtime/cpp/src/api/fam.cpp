// The C ABI (fam/fam.h): handles, and nothing of its own besides.
#include "fam/fam.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "api/call_from_request.h"
#include "api/last_error.h"
#include "api/structs.h"
#include "picture/picture.h"
#include "pipeline.h"

#ifndef FAM_VERSION
#define FAM_VERSION "0.0.0"
#endif

struct fam_pipeline {
  std::unique_ptr<libfam::Pipeline> pipeline;
  std::atomic_flag working = ATOMIC_FLAG_INIT;
};

struct fam_result {
  libfam::Result result;
};

namespace {

using libfam::Error;
using libfam::ErrorCode;
using libfam::api::guarded;
using libfam::api::not_null;
using libfam::api::read_struct;
using libfam::api::write_struct;

// One pipeline makes one picture at a time; who comes second is told so, and does not wait.
class Turn {
 public:
  explicit Turn(fam_pipeline& pipeline) : pipeline_(pipeline) {
    if (pipeline_.working.test_and_set(std::memory_order_acquire)) {
      throw Error(ErrorCode::busy,
                  {.what = "the pipeline is making another picture",
                   .expected = "one call at a time",
                   .fix = "wait for the other call, cancel it, or open a pipeline per thread"});
    }
  }
  ~Turn() { pipeline_.working.clear(std::memory_order_release); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  fam_pipeline& pipeline_;
};

const std::vector<libfam::Picture>& pictures_of(const fam_result& result, fam_stage stage) {
  return stage == FAM_STAGE_NATIVE ? result.result.native : result.result.pictures;
}

const libfam::Picture& picture_at(const fam_result* result, fam_stage stage, size_t index) {
  const auto& pictures = pictures_of(not_null(result, "result"), stage);
  if (index >= pictures.size()) {
    throw Error(ErrorCode::invalid_request,
                {.what = "there is no such picture",
                 .got = libfam::repr(std::uint64_t{index}),
                 .expected = "an index below " + std::to_string(pictures.size()),
                 .fix = "ask fam_result_image_count first"});
  }
  return pictures[index];
}

fam_image image_from(const libfam::Picture& picture) {
  fam_image image{};
  image.height = static_cast<uint32_t>(picture.size.height);
  image.width = static_cast<uint32_t>(picture.size.width);
  image.rgb = picture.rgb.empty() ? nullptr : picture.rgb.data();
  image.seed = picture.seed;
  image.settings_json = picture.settings_json.c_str();
  image.latent = picture.latent.floats();
  image.latent_channels = static_cast<uint32_t>(picture.latent.shape.at(1));
  image.latent_height = static_cast<uint32_t>(picture.latent.shape.at(2));
  image.latent_width = static_cast<uint32_t>(picture.latent.shape.at(3));
  return image;
}

}  // namespace

uint32_t fam_abi_version(void) { return FAM_ABI_VERSION; }

const char* fam_version(void) { return FAM_VERSION; }

const char* fam_status_name(fam_status status) {
  switch (status) {
    case FAM_OK:
      return "FAM_OK";
    case FAM_ERROR_INVALID_REQUEST:
      return "FAM_ERROR_INVALID_REQUEST";
    case FAM_ERROR_TARGET_NOT_BUILT:
      return "FAM_ERROR_TARGET_NOT_BUILT";
    case FAM_ERROR_BUNDLE_NOT_FOUND:
      return "FAM_ERROR_BUNDLE_NOT_FOUND";
    case FAM_ERROR_BUNDLE_DAMAGED:
      return "FAM_ERROR_BUNDLE_DAMAGED";
    case FAM_ERROR_BUNDLE_PATH_REFUSED:
      return "FAM_ERROR_BUNDLE_PATH_REFUSED";
    case FAM_ERROR_BUNDLE_VERSION_UNSUPPORTED:
      return "FAM_ERROR_BUNDLE_VERSION_UNSUPPORTED";
    case FAM_ERROR_STORAGE:
      return "FAM_ERROR_STORAGE";
    case FAM_ERROR_BACKEND:
      return "FAM_ERROR_BACKEND";
    case FAM_ERROR_OUT_OF_MEMORY:
      return "FAM_ERROR_OUT_OF_MEMORY";
    case FAM_ERROR_NUMERIC:
      return "FAM_ERROR_NUMERIC";
    case FAM_ERROR_CANCELLED:
      return "FAM_ERROR_CANCELLED";
    case FAM_ERROR_BUSY:
      return "FAM_ERROR_BUSY";
    case FAM_ERROR_INTERNAL:
      return "FAM_ERROR_INTERNAL";
  }
  return "unknown status";
}

const char* fam_last_error(void) { return libfam::api::last_error(); }

fam_status fam_pipeline_open(const char* path, const fam_pipeline_options* options,
                             fam_pipeline** pipeline) {
  if (pipeline != nullptr) *pipeline = nullptr;
  return guarded([&] {
    fam_pipeline*& out = not_null(pipeline, "pipeline");
    const auto chosen = read_struct(options, "fam_pipeline_options");
    auto opened = std::make_unique<fam_pipeline>();
    opened->pipeline =
        libfam::Pipeline::open(&not_null(path, "path"), libfam::api::options_from(chosen),
                               libfam::api::watcher_from(chosen.progress, chosen.user_data, false));
    out = opened.release();
  });
}

void fam_pipeline_close(fam_pipeline* pipeline) { delete pipeline; }

void fam_pipeline_cancel(fam_pipeline* pipeline) {
  if (pipeline != nullptr) pipeline->pipeline->cancel();
}

fam_status fam_pipeline_unload(fam_pipeline* pipeline) {
  return guarded([&] {
    const Turn turn(not_null(pipeline, "pipeline"));
    pipeline->pipeline->unload();
  });
}

fam_status fam_pipeline_bundle(const fam_pipeline* pipeline, fam_bundle_info* info) {
  return guarded([&] {
    const libfam::Bundle& bundle = not_null(pipeline, "pipeline").pipeline->bundle();
    const libfam::Manifest& manifest = bundle.manifest();
    fam_bundle_info found{};
    found.target_count = static_cast<uint32_t>(manifest.targets.size());
    found.name = manifest.model.name.c_str();
    found.family = manifest.model.family.c_str();
    found.dtype = manifest.model.dtype.c_str();
    found.hash = bundle.hash().c_str();
    found.native_height = static_cast<uint32_t>(manifest.native.height);
    found.native_width = static_cast<uint32_t>(manifest.native.width);
    write_struct(found, info, "fam_bundle_info");
  });
}

fam_status fam_pipeline_target(const fam_pipeline* pipeline, uint32_t index, uint32_t* height,
                               uint32_t* width) {
  return guarded([&] {
    const auto& targets = not_null(pipeline, "pipeline").pipeline->bundle().manifest().targets;
    if (index >= targets.size()) {
      throw Error(ErrorCode::invalid_request,
                  {.what = "the bundle has no such target",
                   .got = libfam::repr(std::uint64_t{index}),
                   .expected = "an index below " + std::to_string(targets.size()),
                   .fix = "ask fam_pipeline_bundle first"});
    }
    not_null(height, "height") = static_cast<uint32_t>(targets[index].size.height);
    not_null(width, "width") = static_cast<uint32_t>(targets[index].size.width);
  });
}

fam_status fam_generate(fam_pipeline* pipeline, const fam_request* request, fam_result** result) {
  if (result != nullptr) *result = nullptr;
  return guarded([&] {
    fam_result*& out = not_null(result, "result");
    const Turn turn(not_null(pipeline, "pipeline"));
    const auto asked = read_struct(&not_null(request, "request"), "fam_request");
    const auto watcher =
        libfam::api::watcher_from(asked.progress, asked.user_data, asked.watch_latents != 0);
    auto made = std::make_unique<fam_result>();
    made->result = pipeline->pipeline->generate(libfam::api::call_from_request(asked), watcher);
    out = made.release();
  });
}

void fam_result_free(fam_result* result) { delete result; }

size_t fam_result_image_count(const fam_result* result, fam_stage stage) {
  return result == nullptr ? 0 : pictures_of(*result, stage).size();
}

fam_status fam_result_image(const fam_result* result, fam_stage stage, size_t index,
                            fam_image* image) {
  return guarded(
      [&] { write_struct(image_from(picture_at(result, stage, index)), image, "fam_image"); });
}

fam_status fam_result_save_png(const fam_result* result, fam_stage stage, size_t index,
                               const char* path) {
  return guarded([&] {
    const libfam::Picture& picture = picture_at(result, stage, index);
    if (picture.rgb.empty()) {
      throw Error(ErrorCode::invalid_request, {.what = "the picture was not decoded",
                                               .expected = "a result with pictures",
                                               .fix = "leave latents_only out"});
    }
    libfam::save_png(&not_null(path, "path"), picture.rgb.data(), picture.size,
                     picture.settings_json);
  });
}

size_t fam_result_warning_count(const fam_result* result) {
  return result == nullptr ? 0 : result->result.warnings.size();
}

const char* fam_result_warning(const fam_result* result, size_t index) {
  const bool known = result != nullptr && index < result->result.warnings.size();
  return known ? result->result.warnings[index].c_str() : "";
}

const char* fam_result_report_json(const fam_result* result) {
  return result == nullptr ? "{}" : result->result.report_json.c_str();
}
