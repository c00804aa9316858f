// How far a call is, told to whoever made it, and the ways to stop it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "pipeline.h"
#include "sampling/stage_program.h"

namespace libfam {

// Every function but the setter raises Error(cancelled) when the call is to stop.
class CallWatcher : public StepObserver {
 public:
  // `cancelled`: set by any thread, looked at after every step. Both must outlive this.
  CallWatcher(const Watcher& watcher, const std::atomic<bool>& cancelled);

  // First picture of the batch at work.
  void set_picture_index(std::int64_t index) { picture_index_ = index; }
  // A phase of `total` steps begins; the one before has ended.
  void start(Phase phase, std::int64_t total);
  // A step of the phase is done.
  void advance();

  bool wants_latents() const override;
  void after_step(Stage stage, std::size_t index, const StepPlan& step,
                  const HostTensor* latent) override;

 private:
  void tell(const ProgressEvent& event) const;
  void check_cancelled() const;
  ProgressEvent event() const;

  const Watcher& watcher_;
  const std::atomic<bool>& cancelled_;
  Phase phase_ = Phase::text;
  std::int64_t step_ = 0;
  std::int64_t total_ = 0;
  std::int64_t picture_index_ = 0;
};

}  // namespace libfam
