#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "probe/probe.h"
#include "sampling/buffer_plan.h"
#include "sampling/check_finite.h"
#include "sampling/conditions.h"
#include "sampling/methods.h"
#include "sampling/native_attention.h"
#include "sampling/stage_inputs.h"
#include "sampling/stage_loop.h"
#include "unit/stages_fakes.h"

namespace libfam::probe {
namespace {

Dtype dtype_named(const std::string& name) {
  for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::int64}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::runtime_error("unknown dtype " + name);
}

HostTensor tensor_of(const Json& in) {
  HostTensor tensor = HostTensor::zeros(in.at("shape").get<Shape>(),
                                        dtype_named(in.at("dtype").get<std::string>()));
  const std::string bytes = read_bytes(in.at("path").get<std::string>());
  if (bytes.size() != tensor.bytes.size()) throw std::runtime_error("a file has another size");
  std::memcpy(tensor.bytes.data(), bytes.data(), bytes.size());
  return tensor;
}

Json written(const std::string& path, const HostTensor& tensor) {
  write_bytes(path, tensor.bytes.data(), tensor.bytes.size());
  return {{"path", path}, {"shape", tensor.shape}, {"dtype", name_of(tensor.dtype)}};
}

Json written(const std::string& folder, const std::string& prefix, const Feeds& feeds) {
  Json out = Json::object();
  for (const auto& [name, tensor] : feeds) {
    out[name] = written(folder + "/" + prefix + "." + name, tensor);
  }
  return out;
}

std::vector<TensorSpec> specs_of(const Json& in) {
  std::vector<TensorSpec> specs;
  for (const Json& item : in) {
    TensorSpec spec = {item.at(0), dtype_named(item.at(1).get<std::string>()), {}};
    for (const Json& dimension : item.at(2)) {
      if (dimension.is_string()) {
        spec.shape.emplace_back(dimension.get<std::string>());
      } else {
        spec.shape.emplace_back(dimension.get<std::int64_t>());
      }
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

GraphSpec graph_of(const Json& in) {
  return {.inputs = specs_of(in.at("inputs")), .outputs = specs_of(in.at("outputs"))};
}

std::vector<StepPlan> steps_of(const Json& in) {
  std::vector<StepPlan> steps;
  for (const Json& item : in) {
    StepPlan step;
    step.timestep = item.at("timestep");
    step.fm_index = item.at("fm_index");
    step.coefficients64 = item.at("coefficients64").get<decltype(step.coefficients64)>();
    for (std::size_t i = 0; i < step.coefficients.size(); ++i) {
      step.coefficients[i] = static_cast<float>(step.coefficients64[i]);
    }
    step.needs_noise = item.at("needs_noise");
    steps.push_back(step);
  }
  return steps;
}

NativeAttention attention_named(const std::string& name) {
  for (const auto attention :
       {NativeAttention::none, NativeAttention::store, NativeAttention::replay}) {
    if (name == name_of(attention)) return attention;
  }
  throw std::runtime_error("unknown native attention " + name);
}

Json methods_command(const Json&) {
  Json out = Json::array();
  const char* starts[] = {"noise", "diffused"};
  const char* kernels[] = {"table", "delta", "off"};
  const char* weights[] = {"table", "cosine"};
  const char* references[] = {"diffused", "constant"};
  for (const Method& method : methods()) {
    const Method& found = method_named(method.name);
    out.push_back({{"name", found.name},
                   {"summary", found.summary},
                   {"start", starts[static_cast<int>(found.start)]},
                   {"fm_kernel", kernels[static_cast<int>(found.fm_kernel)]},
                   {"fm_weight", weights[static_cast<int>(found.fm_weight)]},
                   {"am_strength", found.am_strength ? Json(*found.am_strength) : Json()},
                   {"reference", references[static_cast<int>(found.reference)]},
                   {"needs_native_stage", found.needs_native_stage()}});
  }
  return out;
}

Json am_strength_command(const Json& in) {
  const Json& asked = in.at("requested");
  std::optional<double> requested;
  if (asked == "nan") {
    requested = std::numeric_limits<double>::quiet_NaN();
  } else if (!asked.is_null()) {
    requested = asked.get<double>();
  }
  return resolve_am_strength(in.at("name").get<std::string>(), requested, in.at("default"));
}

Json plan_command(const Json& in) {
  std::vector<GraphSpec> graphs;
  for (const Json& stage : in.at("stages")) graphs.push_back(graph_of(stage.at("spec")));
  std::vector<StageShape> stages;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    const Json& stage = in.at("stages").at(i);
    std::vector<StepPlan> steps;
    for (const bool noisy : stage.at("noisy")) steps.push_back({.needs_noise = noisy});
    stages.push_back(stage_shape(stage.at("stage") == "native" ? Stage::native : Stage::target,
                                 graphs[i], stage.at("batch"), steps, stage.at("tap_names"),
                                 attention_named(stage.at("attention"))));
  }
  const char* owners[] = {"native", "target", "both"};
  Json buffers = Json::array();
  const BufferPlan plan = plan_buffers(stages, in.at("every_output_bound"));
  for (const Buffer& buffer : plan.buffers) {
    buffers.push_back({{"name", buffer.name},
                       {"slots", buffer.slots},
                       {"shape", buffer.shape},
                       {"dtype", name_of(buffer.dtype)},
                       {"slot_bytes", buffer.slot_bytes()},
                       {"nbytes", buffer.nbytes()},
                       {"owner", owners[static_cast<int>(buffer.owner)]},
                       {"copied", buffer.copied ? "once a stage, from the host" : "never"}});
  }
  return {{"buffers", buffers}, {"nbytes", plan.nbytes()}};
}

Manifest manifest_of(const Json& in) {
  Manifest manifest;
  manifest.model.family = in.at("family");
  manifest.model.guidance = in.at("guidance");
  manifest.model.guidance_embedding = in.at("guidance_embedding");
  manifest.model.force_zeros_for_empty_prompt = in.at("force_zeros_for_empty_prompt");
  manifest.native = {in.at("native").at(0), in.at("native").at(1)};
  if (!in.at("size_conditions").is_null()) manifest.size_conditions = in.at("size_conditions");
  return manifest;
}

Json conditions_command(const Json& in) {
  const Manifest manifest = manifest_of(in.at("manifest"));
  std::vector<PictureRequest> pictures;
  for (const Json& item : in.at("pictures")) {
    PictureRequest picture = {.prompt = item.at(0), .negative_prompt = {}, .seed = 0};
    if (!item.at(1).is_null()) picture.negative_prompt = item.at(1).get<std::string>();
    pictures.push_back(std::move(picture));
  }
  TextEmbeddings embeddings;
  for (const auto& [text, item] : in.at("embeddings").items()) {
    TextEmbedding embedding = {.tokens = tensor_of(item.at("tokens")), .pooled = {}};
    if (item.contains("pooled")) embedding.pooled = tensor_of(item.at("pooled"));
    embeddings.emplace(text, std::move(embedding));
  }
  const Feeds feeds = stage_conditions(manifest, pictures, embeddings, in.at("guidance_scale"),
                                       {in.at("size").at(0), in.at("size").at(1)});
  return {{"texts", texts_to_encode(manifest, pictures)},
          {"feeds", written(in.at("folder"), "conditions", feeds)}};
}

// Both stages of a batch with the fake step graph: everything that was fed, and what came out.
class Run {
 public:
  explicit Run(const Json& in)
      : folder_(in.at("folder")),
        native_spec_(graph_of(in.at("native_graph"))),
        target_spec_(graph_of(in.at("target_graph"))),
        plan_{steps_of(in.at("steps")), in.at("initial_signal"), in.at("initial_noise"),
              in.at("init_noise_sigma")},
        noise_(fakes::noise_of(in.at("batch"))),
        attention_{attention_named(in.at("attention")), fakes::tap_names(), &native_} {
    for (const auto& [name, tensor] : in.at("conditions").items()) {
      conditions_.emplace(name, tensor_of(tensor));
    }
  }

  Json operator()(const Json& in) {
    const Sampling sampling = {plan_, noise_};
    const auto native = native_program(sampling, native_, conditions_,
                                       in.at("native_latent").get<Shape>(), attention_);
    StageResult left;
    Json out = {{"native", described(native)}};
    out["native_final"] =
        written(folder_ + "/native_final", run_stage(loop_, native, "fp32", &left));
    for (std::size_t i = 0; i < left.latents.size(); ++i) {
      HostTensor latent = HostTensor::zeros(left.latents[i].shape, left.latents[i].dtype);
      device_->copy_to_host(latent.bytes.data(), left.latents[i].data, latent.bytes.size());
      out["trajectory"].push_back(written(folder_ + "/trajectory" + std::to_string(i), latent));
    }
    const auto target =
        target_program(sampling, target_, conditions_, tensor_of(in.at("reference_latent")),
                       method_named(in.at("method").get<std::string>()), in.at("am_strength"),
                       tables_of(in), attention_);
    out["target"] = described(target);
    out["target_final"] = written(folder_ + "/target_final", run_stage(loop_, target, "fp32"));
    return out;
  }

 private:
  Json described(const StageProgram& program) const {
    const std::string stage = name_of(program.stage);
    return {{"first_latent", written(folder_ + "/" + stage + ".first", program.first_latent)},
            {"constants", written(folder_, stage + ".constants", program.constants)},
            {"tables", written(folder_, stage + ".tables", program.tables)}};
  }

  static KernelTables tables_of(const Json& in) {
    const auto floats = [&](const char* name) {
      const HostTensor tensor = tensor_of(in.at(name));
      return std::vector<float>(tensor.floats(), tensor.floats() + element_count(tensor.shape));
    };
    KernelTables tables;
    tables.rows = floats("rows");
    tables.columns = floats("columns");
    tables.weight = floats("weight");
    tables.timesteps = static_cast<std::int64_t>(tables.weight.size());
    tables.latent = {static_cast<std::int64_t>(tables.rows.size()) / tables.timesteps,
                     static_cast<std::int64_t>(tables.columns.size()) / tables.timesteps};
    return tables;
  }

  std::string folder_;
  GraphSpec native_spec_;
  GraphSpec target_spec_;
  fakes::FakeEngine native_{"native", native_spec_};
  fakes::FakeEngine target_{"target", target_spec_};
  SamplingPlan plan_;
  PictureNoise noise_;
  AttentionFeed attention_;
  Feeds conditions_;
  std::unique_ptr<Device> device_ = host_device();
  StageLoop loop_{*device_};
};

const Registration kMethods("stages.methods", methods_command);
const Registration kAmStrength("stages.am_strength", am_strength_command);
const Registration kMethodNamed("stages.method_named", [](const Json& in) -> Json {
  return method_named(in.at("name").get<std::string>()).name;
});
const Registration kSkipResidual("stages.skip_residual_weight", [](const Json& in) -> Json {
  return skip_residual_weight(in.at("timestep"), in.at("train_timesteps"));
});
const Registration kPlan("stages.plan", plan_command);
const Registration kConditions("stages.conditions", conditions_command);
const Registration kRun("stages.run", [](const Json& in) { return Run(in)(in); });
const Registration kFinite("stages.check_finite", [](const Json& in) -> Json {
  check_finite(in.at("what"), tensor_of(in.at("tensor")), in.at("dtype"));
  return nullptr;
});
const Registration kChoose("stages.choose_native_attention", [](const Json& in) -> Json {
  return name_of(choose_native_attention(in.at("mode").get<std::string>(), in.at("am_strength"),
                                         in.at("needed"), in.at("budget")));
});
const Registration kStored("stages.stored_bytes", [](const Json& in) -> Json {
  return stored_bytes(specs_of(in.at("specs")), {{"B", in.at("batch")}}, in.at("steps"));
});

}  // namespace
}  // namespace libfam::probe
