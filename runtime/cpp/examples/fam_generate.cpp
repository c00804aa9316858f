// A picture from a bundle and a prompt: fam-generate without Python, with options of it. With - for
// the prompt it makes one for every line of standard input, and keeps everything loaded.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

#include "fam/fam.hpp"

namespace {

constexpr std::string_view kStandardInput = "-";

struct Arguments {
  std::string bundle;
  std::string output = "out.png";
  std::optional<std::string> negative_prompt;
  std::string scale;
  std::string size;
  std::optional<std::int64_t> seed;
  bool save_native = false;
  bool no_verify = false;
  bool quiet = false;
  bool report = false;
  fam::PipelineOptions pipeline;
  fam::Request request;
};

// All of `text` as a number above 0; nothing if it is none.
template <class Number>
std::optional<Number> number_from(std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || !(number > Number{})) return std::nullopt;
  return number;
}

// "2x4" as (2, 4), and "2" as (2, 2).
template <class Number>
std::optional<std::pair<Number, Number>> pair_from(std::string_view text) {
  const auto x = text.find('x');
  const auto first = number_from<Number>(text.substr(0, x));
  const auto second = x == text.npos ? first : number_from<Number>(text.substr(x + 1));
  if (!first || !second) return std::nullopt;
  return std::pair(*first, *second);
}

std::string is_scale(const std::string& text) {
  return pair_from<double>(text) ? "" : "expected a factor, or two as in 2x4, got " + text;
}

std::string is_size(const std::string& text) {
  const bool two = text.find('x') != std::string::npos;
  return two && pair_from<std::uint32_t>(text) ? "" : "expected pixels as in 512x768, got " + text;
}

void add_picture_options(CLI::App& cli, Arguments& arguments) {
  fam::Request& request = arguments.request;
  const std::string group = "The picture";
  auto* scale = cli.add_option("--scale", arguments.scale, "times the trained size: 2, or 2x4");
  scale->check(is_scale)->group(group);
  cli.add_option("--size", arguments.size, "height x width in pixels, as in 512x768")
      ->check(is_size)
      ->excludes(scale)
      ->group(group);
  cli.add_option("--negative-prompt", arguments.negative_prompt, "what to keep away from")
      ->group(group);
  cli.add_option("--steps", request.num_inference_steps, "denoising steps of each stage")
      ->check(CLI::PositiveNumber)
      ->group(group);
  cli.add_option("--guidance-scale", request.guidance_scale, "how strictly to follow the prompt")
      ->group(group);
  cli.add_option("--seed", arguments.seed, "default: drawn, and printed")->group(group);
  cli.add_option("--scheduler", request.scheduler, "ddim, dpm++2m, euler, euler-a or lcm")
      ->group(group);
  cli.add_option(
         "--method", request.method,
         "fam (default), fm, am, skip-residual, direct, direct-latent, constant-lf, swapping")
      ->group(group);
  cli.add_option("--am-strength", request.am_strength, "0 to 1; paper: 0.7")->group(group);
  cli.add_option("--num-images", request.num_images_per_prompt, "pictures, with seeds in a row")
      ->check(CLI::PositiveNumber)
      ->group(group);
  cli.add_option("--noise", request.noise, "torch-cpu (default) or torch-cuda")->group(group);
  cli.add_flag("--save-native", arguments.save_native, "also write the native picture")
      ->group(group);
}

void add_run_options(CLI::App& cli, Arguments& arguments) {
  fam::PipelineOptions& options = arguments.pipeline;
  const std::string group = "How it is made";
  cli.add_option("--backend", options.backend, "onnxruntime (default), tensorrt or tensorrt-rtx")
      ->group(group);
  cli.add_option("--provider", options.provider,
                 "of onnxruntime: cpu (default), cuda, tensorrt or tensorrt-rtx")
      ->group(group);
  cli.add_option("--threads", options.num_threads, "of onnxruntime's; default: one per core")
      ->group(group);
  cli.add_option("--device", options.device_index, "number of the GPU")->group(group);
  cli.add_option("--cache-dir", options.cache_dir, "where engines are kept")->group(group);
  cli.add_flag("--low-memory", options.low_memory,
               "mapped weights, one UNet graph at a time: less memory, slower")
      ->group(group);
  cli.add_option("--native-attention", arguments.request.native_attention,
                 "auto (default), store or replay")
      ->group(group);
  cli.add_flag("--no-verify", arguments.no_verify, "compare sizes only; do not hash the files")
      ->group(group);
  cli.add_flag("--report", arguments.report,
               "print a line of JSON after the pictures of each prompt: seconds of each stage …")
      ->group(group);
  cli.add_flag("--quiet", arguments.quiet, "no progress, no names of files")->group(group);
}

bool is_terminal() {
#ifdef _WIN32
  return _isatty(_fileno(stderr)) != 0;
#else
  return isatty(STDERR_FILENO) != 0;
#endif
}

void show(const fam::Progress& progress) {
  constexpr const char* kNames[] = {"checking", "text", "native", "target", "decode"};
  const std::uint64_t percent = progress.total == 0 ? 100 : 100 * progress.step / progress.total;
  std::cerr << "\r" << kNames[progress.phase] << " " << percent << " %      " << std::flush;
  if (progress.step == progress.total) std::cerr << "\r                         \r";
}

fam::ProgressCallback progress_of(const Arguments& arguments) {
  if (arguments.quiet || !is_terminal()) return {};
  return [](const fam::Progress& progress) {
    show(progress);
    return true;
  };
}

fam::Request request_from(const Arguments& arguments) {
  fam::Request request = arguments.request;
  if (arguments.negative_prompt) request.negative_prompts = {*arguments.negative_prompt};
  if (!arguments.scale.empty()) {
    std::tie(request.scale, request.scale_width) = pair_from<double>(arguments.scale).value();
  }
  if (!arguments.size.empty()) {
    const auto pixels = pair_from<std::uint32_t>(arguments.size).value();
    std::tie(request.height, request.width) = pixels;
  }
  request.draw_seed = !arguments.seed;
  request.seed = static_cast<std::uint64_t>(arguments.seed.value_or(0));
  request.return_native = arguments.save_native;
  request.progress = progress_of(arguments);
  return request;
}

// The name of the PNG with `mark` before its ending.
std::string file_name(const std::string& output, const std::string& mark) {
  const auto slash = output.find_last_of("/\\");
  const auto dot = output.rfind('.');
  const bool ends = dot != std::string::npos && (slash == std::string::npos || dot > slash);
  const std::string stem = ends ? output.substr(0, dot) : output;
  return stem + mark + (ends ? output.substr(dot) : ".png");
}

// Files are numbered where there may be several of them; `made` were made before these.
void save(const Arguments& arguments, const fam::Result& result, std::size_t made) {
  const bool numbered = arguments.request.prompts.front() == kStandardInput || result.size() > 1;
  for (std::size_t i = 0; i < result.size(); ++i) {
    const std::string number = numbered ? "-" + std::to_string(made + i) : "";
    const std::string path = file_name(arguments.output, number);
    result.image(i).save_png(path);
    if (!arguments.quiet) {
      const auto seed = static_cast<std::int64_t>(result.image(i).seed());
      std::cout << path << " (seed " << seed << ")" << std::endl;
    }
    if (arguments.save_native) {
      result.image(i, FAM_STAGE_NATIVE).save_png(file_name(arguments.output, number + "-native"));
    }
  }
  // Whoever reads this through a pipe waits for it, so that it is flushed.
  if (arguments.report) std::cout << result.report_json() << std::endl;
}

// The next line of standard input that is not blank; nothing at the end.
std::optional<std::string> next_prompt() {
  for (std::string line; std::getline(std::cin, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find('\0') != std::string::npos) {
      throw fam::Error(FAM_ERROR_INVALID_REQUEST,
                       "standard input is no text | got a zero byte | expected a prompt a line, in "
                       "UTF-8 | convert it");
    }
    if (line.find_first_not_of(" \t") != std::string::npos) return line;
  }
  if (std::ferror(stdin) != 0) throw std::runtime_error("standard input cannot be read");
  return std::nullopt;
}

fam::Pipeline* interruptible = nullptr;

// Storing to an atomic is all that cancelling does, so that a signal may do it.
extern "C" void on_interrupt(int) {
  if (interruptible != nullptr) interruptible->cancel();
}

// Ctrl-C cancels, as long as this lives.
class Interruptible {
 public:
  explicit Interruptible(fam::Pipeline& pipeline) {
    interruptible = &pipeline;
    std::signal(SIGINT, on_interrupt);
  }
  ~Interruptible() {
    std::signal(SIGINT, SIG_DFL);
    interruptible = nullptr;
  }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
};

// The exit statuses of fam-generate.
int exit_status(fam_status status) {
  static const std::map<fam_status, int> statuses = {{FAM_ERROR_INVALID_REQUEST, 2},
                                                     {FAM_ERROR_TARGET_NOT_BUILT, 2},
                                                     {FAM_ERROR_BUNDLE_NOT_FOUND, 3},
                                                     {FAM_ERROR_BUNDLE_DAMAGED, 3},
                                                     {FAM_ERROR_BUNDLE_PATH_REFUSED, 3},
                                                     {FAM_ERROR_BUNDLE_VERSION_UNSUPPORTED, 3},
                                                     {FAM_ERROR_STORAGE, 6},
                                                     {FAM_ERROR_BACKEND, 7},
                                                     {FAM_ERROR_OUT_OF_MEMORY, 7},
                                                     {FAM_ERROR_NUMERIC, 8},
                                                     {FAM_ERROR_CANCELLED, 130}};
  const auto found = statuses.find(status);
  return found == statuses.end() ? 1 : found->second;
}

// Makes and saves the pictures of one prompt, and tells how many.
std::size_t make(const Arguments& arguments, fam::Pipeline& pipeline, const fam::Request& request,
                 std::size_t made) {
  const fam::Result result = [&] {
    const Interruptible guard(pipeline);
    return pipeline.generate(request);
  }();
  for (const std::string& warning : result.warnings()) std::cerr << "warning: " << warning << "\n";
  save(arguments, result, made);
  return result.size();
}

void generate(Arguments& arguments) {
  arguments.pipeline.verify = arguments.no_verify ? FAM_VERIFY_SIZE : FAM_VERIFY_FULL;
  arguments.pipeline.progress = progress_of(arguments);
  fam::Pipeline pipeline(arguments.bundle, arguments.pipeline);
  fam::Request request = request_from(arguments);
  if (request.prompts.front() != kStandardInput) {
    make(arguments, pipeline, request, 0);
    return;
  }
  std::size_t made = 0;
  while (const auto prompt = next_prompt()) {
    request.prompts.front() = *prompt;
    made += make(arguments, pipeline, request, made);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Make a picture with FAM Diffusion from a bundle that fam-export made.");
  Arguments arguments;
  arguments.request.prompts.resize(1);
  cli.add_option("BUNDLE", arguments.bundle, "folder of the bundle")->required();
  cli.add_option("PROMPT", arguments.request.prompts.front(),
                 "what to draw; -: every line of standard input")
      ->required();
  cli.add_option("-o,--output", arguments.output, "PNG to write (default: out.png)");
  cli.set_version_flag("--version", fam_version());
  add_picture_options(cli, arguments);
  add_run_options(cli, arguments);
  CLI11_PARSE(cli, argc, argv);
  try {
    generate(arguments);
    return 0;
  } catch (const fam::Error& error) {
    std::cerr << "fam_generate: error: " << error.what() << "\n";
    return exit_status(error.status());
  } catch (const std::exception& error) {
    std::cerr << "fam_generate: " << error.what() << "\n";
    return 1;
  }
}
