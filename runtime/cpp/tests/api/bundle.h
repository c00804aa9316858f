// The bundle that these tests make pictures from.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "fam/fam.hpp"

// Of the environment's FAM_TEST_BUNDLE: a tiny one, from tests/cpp/tiny_bundle.py.
inline std::string test_bundle() {
  const char* path = std::getenv("FAM_TEST_BUNDLE");
  if (path == nullptr) throw std::runtime_error("FAM_TEST_BUNDLE names no bundle");
  return path;
}

inline fam::PipelineOptions one_thread() {
  fam::PipelineOptions options;
  options.num_threads = 1;
  return options;
}

inline fam::Request small_request(std::uint32_t steps = 2) {
  fam::Request request("a red circle");
  request.num_inference_steps = steps;
  return request;
}

inline std::string rgb_of(const fam::Result& result) {
  const fam::Image image = result.image(0);
  return {reinterpret_cast<const char*>(image.rgb()), image.rgb_bytes()};
}
