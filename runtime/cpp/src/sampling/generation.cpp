#include "sampling/generation.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "bundle/contract.h"
#include "engines/feed_checks.h"
#include "sampling/check_finite.h"
#include "sampling/native_attention.h"

namespace libfam {
namespace {

std::int64_t size_of(const std::vector<PictureRequest>& pictures) {
  return static_cast<std::int64_t>(pictures.size());
}

// The output called `name` of what `engine` gave, which has this shape.
HostTensor checked_output(const Engine& engine, std::map<std::string, HostTensor>& values,
                          const std::string& name, const Shape& shape) {
  Sizes no_symbols;
  check_output(engine.graph(), name, values.at(name), {shape.begin(), shape.end()}, no_symbols);
  return std::move(values.at(name));
}

}  // namespace

Generation::Generation(const Parts& parts)
    : parts_(parts),
      bundle_(parts.pool.bundle()),
      manifest_(bundle_.manifest()),
      loaded_before_(parts.pool.load_seconds()) {
  preload();
  choose_native_attention_mode();
}

BatchLatents Generation::run_batch(const std::vector<PictureRequest>& pictures,
                                   bool native_wanted) {
  const Request& request = parts_.request;
  const bool needed = request.method.needs_native_stage();
  PictureNoise noise(request.noise, pictures);
  const BatchEnd end(parts_.loop);
  reserve(size_of(pictures), needed || native_wanted);
  std::optional<EnginePool::Loan> native_engine;
  BatchLatents latents;
  if (needed || native_wanted) {
    native_engine.emplace(parts_.pool.borrow(kNativeGraph, {{"B", size_of(pictures)}}));
    // A picture must not depend on whether its native twin was asked for.
    PictureNoise fresh(request.noise, pictures);
    latents.native = native_stage(**native_engine, pictures, needed ? noise : fresh);
    if (report_.native_attention != NativeAttention::replay) native_engine.reset();
  }
  const HostTensor reference =
      reference_latent(needed ? &*latents.native : nullptr, size_of(pictures));
  latents.target =
      target_stage(pictures, noise, reference, native_engine ? &**native_engine : nullptr);
  return latents;
}

HostTensor Generation::decode(const HostTensor& latent, const std::optional<Tiling>& tiling,
                              Stage stage) {
  const Size whole = {latent.shape.at(2), latent.shape.at(3)};
  const Size tile = tiling ? tile_size(whole, *tiling) : whole;
  parts_.watcher.start(Phase::decode, tiling ? tile_count(whole, *tiling) : 1);
  const HostTensor image = timed("decode", [&] {
    const Sizes sizes = {{"B", 1}, {"h", tile.height}, {"w", tile.width}};
    const EnginePool::Loan decoder = parts_.pool.borrow(manifest_.vae.decoder, sizes);
    const auto piece_decoded = [&](const HostTensor& piece) {
      return decode_piece(*decoder, piece, sizes);
    };
    if (tiling) {
      return decode_tiled(piece_decoded, latent, *tiling, manifest_.model.vae_scale_factor,
                          [this] { parts_.watcher.advance(); });
    }
    HostTensor picture = piece_decoded(latent);
    parts_.watcher.advance();
    return picture;
  });
  check_finite(std::string("the ") + name_of(stage) + " picture", image, manifest_.model.dtype);
  return image;
}

Report Generation::finished_report() const {
  Report report = report_;
  report.seconds["load"] = parts_.pool.load_seconds() - loaded_before_;
  return report;
}

// On a GPU, graphs and what they are fed share its memory: the graphs come first.
void Generation::preload() {
  if (!parts_.keep_engines || device().is_host()) return;
  const Request& request = parts_.request;
  std::vector<std::string> graphs = {request.target.step};
  if (request.method.needs_native_stage()) {
    graphs = {kNativeGraph, request.target.upsample, request.target.step};
  }
  try {
    load_all(graphs);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory || parts_.loop.buffer_bytes() == 0) throw;
    parts_.loop.close();  // its buffers are held for later calls only
    load_all(graphs);
  }
}

void Generation::load_all(const std::vector<std::string>& graphs) {
  for (const std::string& graph : graphs) {
    parts_.pool.borrow(graph, {{"B", parts_.request.batch()}});  // the pool keeps it
  }
}

void Generation::choose_native_attention_mode() {
  const Request& request = parts_.request;
  report_.memory_budget_bytes = default_memory_budget_bytes(device(), parts_.loop.buffer_bytes());
  report_.stored_bytes =
      stored_bytes(manifest_.tap_specs(request.target.step), {{"B", request.batch()}},
                   static_cast<std::int64_t>(parts_.plan.steps.size()));
  report_.native_attention =
      choose_native_attention(request.native_attention, request.am_strength, report_.stored_bytes,
                              report_.memory_budget_bytes);
}

// Has a device's buffers ready before the first step, or says that they do not fit.
void Generation::reserve(std::int64_t batch, bool native_wanted) {
  const auto shape = [&](Stage stage, const std::string& graph) {
    const GraphSpec* spec = manifest_.graph(graph);
    if (spec == nullptr) throw std::logic_error(graph + " is not in the manifest");
    return stage_shape(stage, *spec, batch, parts_.plan.steps, manifest_.tap_names(),
                       report_.native_attention);
  };
  std::vector<StageShape> stages = {shape(Stage::target, parts_.request.target.step)};
  if (native_wanted) stages.push_back(shape(Stage::native, kNativeGraph));
  const std::uint64_t reserved = parts_.loop.reserve(stages);
  report_.device_buffers = std::max(report_.device_buffers, reserved);
}

HostTensor Generation::native_stage(Engine& engine, const std::vector<PictureRequest>& pictures,
                                    PictureNoise& noise) {
  const Size latent = manifest_.latent_size(manifest_.native);
  parts_.watcher.start(Phase::native, static_cast<std::int64_t>(parts_.plan.steps.size()));
  return run(native_program({parts_.plan, noise, &parts_.watcher}, engine,
                            conditions(pictures, manifest_.native),
                            {manifest_.model.latent_channels, latent.height, latent.width},
                            {report_.native_attention, manifest_.tap_names()}));
}

// U(z_0^n); zeros for a method that takes nothing from the native stage.
HostTensor Generation::reference_latent(const HostTensor* native, std::int64_t batch) {
  const Target& target = parts_.request.target;
  const Size size = manifest_.latent_size(target.size);
  const Shape shape = {batch, manifest_.model.latent_channels, size.height, size.width};
  if (native == nullptr) return HostTensor::zeros(shape, Dtype::float32);
  return timed("upsample", [&] {
    const Sizes sizes = {{"B", batch}};
    const EnginePool::Loan engine = parts_.pool.borrow(target.upsample, sizes);
    auto values = run_from_host(*engine, device(), {{contract::kLatent, native->view()}},
                                {contract::kReferenceLatent}, sizes);
    return checked_output(*engine, values, contract::kReferenceLatent, shape);
  });
}

HostTensor Generation::target_stage(const std::vector<PictureRequest>& pictures,
                                    PictureNoise& noise, const HostTensor& reference,
                                    Engine* native_engine) {
  const Request& request = parts_.request;
  const EnginePool::Loan engine =
      parts_.pool.borrow(request.target.step, {{"B", size_of(pictures)}});
  parts_.watcher.start(Phase::target, static_cast<std::int64_t>(parts_.plan.steps.size()));
  return run(target_program({parts_.plan, noise, &parts_.watcher}, *engine,
                            conditions(pictures, request.target.size), reference, request.method,
                            request.am_strength, parts_.tables,
                            {report_.native_attention, manifest_.tap_names(), native_engine}));
}

// Carries a stage out, and reports how long it took.
HostTensor Generation::run(const StageProgram& program) {
  StageResult result;
  HostTensor latent = timed(name_of(program.stage), [&] {
    return run_stage(parts_.loop, program, manifest_.model.dtype, &result);
  });
  if (result.step_seconds) report_.step_seconds[name_of(program.stage)] = *result.step_seconds;
  return latent;
}

HostTensor Generation::decode_piece(Engine& decoder, const HostTensor& piece, const Sizes& sizes) {
  auto values = run_from_host(decoder, device(), {{contract::kLatent, piece.view()}},
                              {contract::kImage}, sizes);
  const std::int64_t factor = manifest_.model.vae_scale_factor;
  return checked_output(decoder, values, contract::kImage,
                        {1, 3, factor * piece.shape.at(2), factor * piece.shape.at(3)});
}

Feeds Generation::conditions(const std::vector<PictureRequest>& pictures, Size size) const {
  return stage_conditions(manifest_, pictures, embeddings_, parts_.request.guidance_scale, size);
}

}  // namespace libfam
