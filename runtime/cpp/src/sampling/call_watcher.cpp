#include "sampling/call_watcher.h"

#include "base/error.h"

namespace libfam {
namespace {

Error stopped() {
  return {ErrorCode::cancelled,
          {.what = "the generation was stopped", .fix = "nothing was written"}};
}

}  // namespace

CallWatcher::CallWatcher(const Watcher& watcher, const std::atomic<bool>& cancelled)
    : watcher_(watcher), cancelled_(cancelled) {}

void CallWatcher::start(Phase phase, std::int64_t total) {
  check_cancelled();
  phase_ = phase;
  step_ = 0;
  total_ = total;
  tell(event());
}

void CallWatcher::advance() {
  ++step_;
  tell(event());
}

bool CallWatcher::wants_latents() const { return watcher_.wants_latents && watcher_.on_progress; }

void CallWatcher::after_step(Stage, std::size_t, const StepPlan& step, const HostTensor* latent) {
  ++step_;
  ProgressEvent done = event();
  done.timestep = step.timestep;
  done.latent = latent;
  tell(done);
}

void CallWatcher::tell(const ProgressEvent& event) const {
  if (watcher_.on_progress && !watcher_.on_progress(event)) throw stopped();
  check_cancelled();
}

void CallWatcher::check_cancelled() const {
  if (cancelled_.load(std::memory_order_relaxed)) throw stopped();
}

ProgressEvent CallWatcher::event() const {
  return {.phase = phase_, .step = step_, .total = total_, .picture_index = picture_index_};
}

}  // namespace libfam
