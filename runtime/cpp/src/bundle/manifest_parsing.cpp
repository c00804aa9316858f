#include "bundle/manifest_parsing.h"

#include <algorithm>
#include <array>
#include <set>

#include "bundle/noise_schedule_info.h"
#include "bundle/paths.h"

// Members of a braced list are evaluated in order, so the first wrong place is the one that is
// named. The order is that of Python's reader.
namespace libfam {
namespace {

constexpr std::array<std::string_view, 2> kFamilies = {"sd", "sdxl"};
constexpr std::array<std::string_view, 3> kModelDtypes = {"fp32", "fp16", "bf16"};
constexpr std::array<std::string_view, 2> kTapForms = {"qk", "maps"};
constexpr std::array<std::string_view, 2> kCutoffReferences = {"target", "native"};
constexpr std::array<std::string_view, 2> kInsideBoxes = {"rho", "one_minus_rho"};
constexpr std::array<std::string_view, 2> kUpsampleSpaces = {"latent", "pixel"};
constexpr std::array<std::string_view, 3> kUpsampleModes = {"bicubic", "bilinear", "nearest"};
constexpr std::array<std::string_view, 2> kSizeConditions = {"stage", "native"};
constexpr std::array<std::string_view, 5> kSchedulers = {"ddim", "dpm++2m", "euler", "euler-a",
                                                         "lcm"};
constexpr std::array<Dtype, 6> kTensorDtypes = {Dtype::float32, Dtype::float16, Dtype::bfloat16,
                                                Dtype::int64,   Dtype::int32,   Dtype::boolean};

constexpr std::int64_t kMaxPixels = 65'536;
constexpr std::int64_t kMaxCount = 1'000'000;
constexpr std::int64_t kMaxTokenId = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 50;
constexpr double kMaxLoraStrength = 1000;
constexpr std::int64_t kMaxDimension = std::int64_t{1} << 40;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxFactorDigits = 4;  // of a symbol such as "8h"
constexpr std::size_t kSha256Digits = 64;

template <class Read>
auto list_of(const JsonCursor& at, Read read) {
  std::vector<decltype(read(at))> parts;
  for (const JsonCursor& item : at.items()) parts.push_back(read(item));
  return parts;
}

std::string path_from(const JsonCursor& at) { return std::string(check_name(at.text())); }

std::string name_from(const std::string& key, const JsonCursor& at) {
  const JsonValue value(key);
  return path_from(JsonCursor(value, at.where()));
}

template <class Read>
auto table_of(const JsonCursor& at, Read read) {
  std::vector<std::pair<std::string, decltype(read(at))>> parts;
  for (const auto& [key, value] : at.members()) {
    std::string name = name_from(key, value);
    parts.emplace_back(std::move(name), read(value));
  }
  return parts;
}

std::string sha256_from(const JsonCursor& at) {
  const std::string* text = at.value().text();
  if (!text || text->size() != kSha256Digits ||
      text->find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw at.wrong("64 lower-case hexadecimal digits");
  }
  return *text;
}

GeneratorInfo generator_from(const JsonCursor& at) {
  return {.name = at.member("name").text(), .version = at.member("version").text()};
}

LoraInfo lora_from(const JsonCursor& at) {
  return {.name = at.member("name").text(),
          .sha256 = sha256_from(at.member("sha256")),
          .strength = at.member("strength").number(-kMaxLoraStrength, kMaxLoraStrength)};
}

ModelInfo model_from(const JsonCursor& at) {
  return {
      .name = at.member("name").text(),
      .family = at.member("family").choice(kFamilies),
      .dtype = at.member("dtype").choice(kModelDtypes),
      .guidance = at.member("guidance").flag(),
      .guidance_embedding = at.member("guidance_embedding").flag(),
      .loras = list_of(at.member("loras"), lora_from),
      .latent_channels = at.member("latent_channels").integer(1, 64),
      .vae_scale_factor = at.member("vae_scale_factor").integer(1, 64),
      .vae_scaling_factor = at.member("vae_scaling_factor").number(1e-6, 1e6),
      .size_multiple = at.member("size_multiple").integer(1, 4096),
      .force_zeros_for_empty_prompt = at.member("force_zeros_for_empty_prompt").flag(),
      .checkpoint_sha256 = sha256_from(at.member("checkpoint_sha256")),
  };
}

Size pixels_from(const JsonCursor& at) {
  return {.height = at.member("height").integer(1, kMaxPixels),
          .width = at.member("width").integer(1, kMaxPixels)};
}

Target target_from(const JsonCursor& at) {
  return {.size = pixels_from(at),
          .step = path_from(at.member("step")),
          .upsample = path_from(at.member("upsample")),
          .kernels = path_from(at.member("kernels"))};
}

TapLayer tap_layer_from(const JsonCursor& at) {
  const std::vector<JsonCursor> tokens = at.member("tokens").items();
  if (tokens.size() != 2) {
    throw at.member("tokens").wrong("two integers, the native token grid's height and width");
  }
  return {.name = at.member("name").text(),
          .heads = at.member("heads").integer(1, 1024),
          .channels = at.member("channels").integer(1, kMaxCount),
          .tokens = {.height = tokens[0].integer(1, kMaxPixels),
                     .width = tokens[1].integer(1, kMaxPixels)}};
}

Taps taps_from(const JsonCursor& at) {
  return {.form = at.member("form").choice(kTapForms),
          .layers = list_of(at.member("layers"), tap_layer_from)};
}

FrequencyModulationInfo frequency_modulation_from(const JsonCursor& at) {
  return {.cutoff_reference = at.member("cutoff_reference").choice(kCutoffReferences),
          .cutoff_constant = at.member("cutoff_constant").number(0, 2),
          .inside_box = at.member("inside_box").choice(kInsideBoxes)};
}

UpsampleInfo upsample_from(const JsonCursor& at) {
  return {.space = at.member("space").choice(kUpsampleSpaces),
          .mode = at.member("mode").choice(kUpsampleModes)};
}

TextEncoderInfo text_encoder_from(const JsonCursor& at) {
  return {.graph = path_from(at.member("graph")),
          .tokenizer = path_from(at.member("tokenizer")),
          .max_length = at.member("max_length").integer(2, 65'536),
          .pad_token_id = at.member("pad_token_id").integer(0, kMaxTokenId),
          .bos_token_id = at.member("bos_token_id").integer(0, kMaxTokenId),
          .eos_token_id = at.member("eos_token_id").integer(0, kMaxTokenId)};
}

VaeInfo vae_from(const JsonCursor& at) {
  return {.encoder = path_from(at.member("encoder")), .decoder = path_from(at.member("decoder"))};
}

Defaults defaults_from(const JsonCursor& at) {
  return {.scheduler = at.member("scheduler").choice(kSchedulers),
          .num_inference_steps = at.member("num_inference_steps").integer(1, kMaxCount),
          .guidance_scale = at.member("guidance_scale").number(0, 1000),
          .am_strength = at.member("am_strength").number(0, 1)};
}

// "B", "h" or "w", perhaps times a factor without leading zeros.
bool is_symbol(std::string_view text) {
  if (text.empty() || std::string_view("Bhw").find(text.back()) == std::string_view::npos) {
    return false;
  }
  const std::string_view factor = text.substr(0, text.size() - 1);
  return factor.size() <= kMaxFactorDigits && !factor.starts_with('0') &&
         factor.find_first_not_of("0123456789") == std::string_view::npos;
}

Dimension dimension_from(const JsonCursor& at) {
  const std::string* symbol = at.value().text();
  if (!symbol) return at.integer(1, kMaxDimension);
  if (!is_symbol(*symbol)) {
    throw at.wrong("an integer, or a symbol such as 'B', '2B', 'h', 'w', '8h' or '8w'");
  }
  return *symbol;
}

Dtype tensor_dtype_from(const JsonCursor& at) {
  std::array<std::string_view, kTensorDtypes.size()> names;
  std::ranges::transform(kTensorDtypes, names.begin(), name_of);
  const std::string chosen = at.choice(names);
  return kTensorDtypes[static_cast<std::size_t>(std::ranges::find(names, chosen) - names.begin())];
}

TensorSpec tensor_from(const JsonCursor& at) {
  const JsonCursor shape = at.member("shape");
  if (shape.items().size() > kMaxRank) {
    throw shape.wrong("at most " + std::to_string(kMaxRank) + " dimensions");
  }
  return {.name = at.member("name").text(),
          .dtype = tensor_dtype_from(at.member("dtype")),
          .shape = list_of(shape, dimension_from)};
}

std::vector<TensorSpec> tensors_from(const JsonCursor& at) {
  std::vector<TensorSpec> tensors = list_of(at, tensor_from);
  std::set<std::string_view> names;
  for (const TensorSpec& tensor : tensors) {
    if (!names.insert(tensor.name).second) throw at.wrong("every name once");
  }
  return tensors;
}

// The figures of `check` are free-form, and nothing here needs them.
GraphSpec graph_from(const JsonCursor& at) {
  const JsonCursor check = at.member("check");
  if (!check.value().object()) throw check.wrong("an object");
  return {.inputs = tensors_from(at.member("inputs")),
          .outputs = tensors_from(at.member("outputs")),
          .activation_bytes = at.member("activation_bytes").integer(0, kMaxFileBytes)};
}

FileRecord file_record_from(const JsonCursor& at) {
  return {.bytes = at.member("bytes").integer(0, kMaxFileBytes),
          .sha256 = sha256_from(at.member("sha256"))};
}

}  // namespace

Manifest manifest_from(const JsonCursor& at) {
  return {
      .format_version = at.member("format_version").integer(1, kMaxCount),
      .generator = generator_from(at.member("generator")),
      .model = model_from(at.member("model")),
      .native = pixels_from(at.member("native")),
      .targets = list_of(at.member("targets"), target_from),
      .taps = taps_from(at.member("taps")),
      .frequency_modulation = frequency_modulation_from(at.member("frequency_modulation")),
      .upsample = upsample_from(at.member("upsample")),
      .size_conditions = at.member("size_conditions").optional_choice(kSizeConditions),
      .noise_schedule = noise_schedule_from(at.member("noise_schedule")),
      .text_encoders = list_of(at.member("text_encoders"), text_encoder_from),
      .vae = vae_from(at.member("vae")),
      .defaults = defaults_from(at.member("defaults")),
      .graphs = table_of(at.member("graphs"), graph_from),
      .files = table_of(at.member("files"), file_record_from),
  };
}

}  // namespace libfam
