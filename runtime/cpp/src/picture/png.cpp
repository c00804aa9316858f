#include <png.h>

#include <array>
#include <csetjmp>
#include <new>
#include <stdexcept>
#include <string>

#include "base/atomic_file.h"
#include "picture/picture.h"

namespace libfam {
namespace {

constexpr int kCompressionLevel = 6;
constexpr std::size_t kBytesPerPixel = 3;

// What libpng's callbacks reach: no exception may pass through its frames.
struct Output {
  std::vector<std::uint8_t> bytes;
  bool out_of_memory = false;
};

void append(png_structp png, png_bytep data, std::size_t length) {
  auto* output = static_cast<Output*>(png_get_io_ptr(png));
  try {
    output->bytes.insert(output->bytes.end(), data, data + length);
  } catch (const std::exception&) {
    output->out_of_memory = true;
  }
  if (output->out_of_memory) png_error(png, "out of memory");
}

void flush(png_structp) {}

[[noreturn]] void fail(png_structp png, png_const_charp) { png_longjmp(png, 1); }

void ignore(png_structp, png_const_charp) {}

// libpng's structs, freed with this.
class Encoder {
 public:
  explicit Encoder(Output& output)
      : png_(png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, fail, ignore)) {
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_write_struct(&png_, nullptr);
      throw std::bad_alloc();
    }
    png_set_write_fn(png_, &output, append, flush);
  }
  ~Encoder() { png_destroy_write_struct(&png_, &info_); }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // False if libpng gave up. It leaves by longjmp: nothing in here may need a destructor.
  bool write(const std::uint8_t* rgb, png_uint_32 width, png_uint_32 height, png_textp texts,
             int text_count) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_compression_level(png_, kCompressionLevel);
    png_set_IHDR(png_, info_, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png_, info_, texts, text_count);
    png_write_info(png_, info_);
    for (std::size_t row = 0; row < height; ++row) {
      png_write_row(png_, rgb + row * width * kBytesPerPixel);
    }
    png_write_end(png_, nullptr);
    return true;
  }

 private:
  png_structp png_;
  png_infop info_ = nullptr;
};

png_text text_chunk(const char* keyword, std::string& text) {
  png_text chunk = {};
  chunk.compression = PNG_ITXT_COMPRESSION_NONE;
  chunk.key = const_cast<png_charp>(keyword);  // libpng copies it
  chunk.text = text.data();
  chunk.itxt_length = text.size();
  return chunk;
}

}  // namespace

std::vector<std::uint8_t> png_from_rgb(const std::uint8_t* rgb, Size size,
                                       const std::string& settings_json) {
  std::string settings = settings_json;
  std::string parameters = settings.empty() ? "" : parameters_text(settings);
  std::array<png_text, 2> texts = {text_chunk("fam", settings),
                                   text_chunk("parameters", parameters)};
  Output output;
  Encoder encoder(output);
  const bool written = encoder.write(rgb, static_cast<png_uint_32>(size.width),
                                     static_cast<png_uint_32>(size.height), texts.data(),
                                     settings.empty() ? 0 : static_cast<int>(texts.size()));
  if (output.out_of_memory) throw std::bad_alloc();
  if (!written) throw std::logic_error("libpng refused a picture");
  return std::move(output.bytes);
}

void save_png(const std::string& path, const std::uint8_t* rgb, Size size,
              const std::string& settings_json) {
  write_atomically(path, png_from_rgb(rgb, size, settings_json));
}

}  // namespace libfam
