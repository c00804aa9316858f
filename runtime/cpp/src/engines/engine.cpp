#include "engines/engine.h"

#include "engines/feed_checks.h"

namespace libfam {

void Engine::enqueue(const Bindings& values) {
  check_bindings(graph_, spec_, values);
  enqueue_impl(values);
}

}  // namespace libfam
