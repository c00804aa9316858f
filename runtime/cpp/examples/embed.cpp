// libfam inside an application: the picture is made in a thread of its own while the application
// goes on, shows how far it is, and stops it when its user has waited long enough.
//
//     fam_embed BUNDLE PROMPT [SECONDS]

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <string>

#include "fam/fam.hpp"

namespace {

// What the application's thread reads while the other one works.
struct Shown {
  std::atomic<int> phase{FAM_PHASE_TEXT};
  std::atomic<int> percent{0};
};

const char* words_for(int phase) {
  switch (phase) {
    case FAM_PHASE_TEXT:
      return "reading the prompt";
    case FAM_PHASE_NATIVE:
      return "composing";
    case FAM_PHASE_TARGET:
      return "drawing";
    default:
      return "developing";
  }
}

fam::Result make(fam::Pipeline& pipeline, const std::string& prompt, Shown& shown) {
  fam::Request request(prompt);
  request.draw_seed = true;
  request.progress = [&shown](const fam::Progress& progress) {
    shown.phase = progress.phase;
    shown.percent = static_cast<int>(100 * progress.step / progress.total);
    return true;  // false would cancel, too
  };
  return pipeline.generate(request);
}

void wait_for(const std::future<fam::Result>& work, fam::Pipeline& pipeline, const Shown& shown,
              std::chrono::duration<double> patience) {
  using Clock = std::chrono::steady_clock;
  const auto started = Clock::now();
  while (work.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) {
    std::cout << "\r" << words_for(shown.phase) << " " << shown.percent << " %      " << std::flush;
    if (Clock::now() - started > patience) pipeline.cancel();
  }
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: fam_embed BUNDLE PROMPT [SECONDS]\n";
    return 2;
  }
  const double seconds = argc > 3 ? std::atof(argv[3]) : 600;
  try {
    fam::Pipeline pipeline(argv[1]);
    Shown shown;
    auto work = std::async(std::launch::async, make, std::ref(pipeline), argv[2], std::ref(shown));
    wait_for(work, pipeline, shown, std::chrono::duration<double>(seconds));
    const fam::Result result = work.get();
    for (const std::string& warning : result.warnings()) std::cout << "note: " << warning << "\n";
    const fam::Image image = result.image(0);
    std::cout << image.width() << "x" << image.height() << ", " << image.rgb_bytes()
              << " bytes of RGB, seed " << image.seed() << "\n";
    return 0;
  } catch (const fam::Error& error) {
    std::cerr << fam_status_name(error.status()) << ": " << error.what() << "\n";
    return error.status() == FAM_ERROR_CANCELLED ? 130 : 1;
  }
}
