#include <chrono>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "engines/engine.h"

namespace libfam {
namespace {

std::unique_ptr<Engine> loaded(Backend& backend, const Bundle& bundle, const std::string& graph) {
  try {
    return backend.load(bundle, graph);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory || backend.device().is_host()) throw;
  }
  backend.device().trim();  // the library takes its memory from elsewhere
  return backend.load(bundle, graph);
}

}  // namespace

EnginePool::EnginePool(Backend& backend, const Bundle& bundle, bool keep)
    : backend_(backend), bundle_(bundle), keep_(keep) {}

EnginePool::~EnginePool() {
  entries_.clear();
  give_back_freed_memory();
}

EnginePool::Loan EnginePool::borrow(const std::string& graph, const Sizes& sizes) {
  const auto started = std::chrono::steady_clock::now();
  auto entry = entries_.find(graph);
  if (entry == entries_.end()) {
    std::unique_ptr<Engine> engine = loaded(backend_, bundle_, graph);
    give_back_freed_memory();
    entry = entries_.emplace(graph, Entry{std::move(engine), 0}).first;
  }
  // Before preparing, which may fail: the loan gives the engine back.
  Loan loan(*this, graph, *entry->second.engine);
  entry->second.engine->prepare(sizes);
  load_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return loan;
}

void EnginePool::close() {
  for (const auto& [graph, entry] : entries_) {
    if (entry.holders != 0) throw std::logic_error(graph + " is in use and cannot be closed");
  }
  entries_.clear();
  give_back_freed_memory();
}

void EnginePool::give_back(const std::string& graph) noexcept {
  const auto entry = entries_.find(graph);
  if (entry == entries_.end()) return;
  --entry->second.holders;
  if (keep_ || entry->second.holders != 0) return;
  entries_.erase(entry);
  give_back_freed_memory();
}

EnginePool::Loan::Loan(EnginePool& pool, std::string graph, Engine& engine)
    : pool_(&pool), graph_(std::move(graph)), engine_(&engine) {
  ++pool.entries_.at(graph_).holders;
}

EnginePool::Loan::~Loan() {
  if (pool_ != nullptr) pool_->give_back(graph_);
}

EnginePool::Loan::Loan(Loan&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      graph_(std::move(other.graph_)),
      engine_(other.engine_) {}

}  // namespace libfam
