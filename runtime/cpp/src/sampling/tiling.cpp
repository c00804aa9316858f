#include "sampling/tiling.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace libfam {
namespace {

constexpr std::int64_t kMinTile = 16;
constexpr Tiling kDefaultTiling = {96, 24};
constexpr Tiling kLowMemoryTiling = {64, 16};
// Latents up to this area are decoded in one piece by default: the 2x of SD 1.5, about 3 GB.
constexpr std::int64_t kUntiledArea = 128 * 128;
constexpr std::int64_t kColours = 3;

std::size_t index(std::int64_t position) { return static_cast<std::size_t>(position); }

std::int64_t axis_tile_count(std::int64_t size, const Tiling& tiling) {
  const std::int64_t uncovered = size - std::min(tiling.tile, size);
  const std::int64_t stride = tiling.tile - tiling.overlap;
  return 1 + (uncovered + stride - 1) / stride;
}

// The ramp of a tile of `length` pixels, before the ramps of all tiles are made to sum to one.
std::vector<double> ramp_of(std::int64_t length, std::int64_t overlap, bool first, bool last) {
  std::vector<double> ramp(index(length), 1.0);
  for (std::int64_t i = 0; i < length; ++i) {
    const double position = static_cast<double>(i) + 0.5;
    double& value = ramp[index(i)];
    if (!first) value = std::min(value, position / static_cast<double>(overlap));
    if (!last) {
      const double distance = static_cast<double>(length) - position;
      value = std::min(value, distance / static_cast<double>(overlap));
    }
  }
  return ramp;
}

// The part of `latent` under a tile of rows and one of columns.
HostTensor piece_of(const HostTensor& latent, const AxisTile& rows, const AxisTile& columns) {
  const std::int64_t channels = latent.shape[1];
  const std::int64_t height = latent.shape[2];
  const std::int64_t width = latent.shape[3];
  HostTensor piece = HostTensor::zeros({1, channels, rows.length, columns.length}, Dtype::float32);
  float* to = piece.floats();
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (std::int64_t row = 0; row < rows.length; ++row) {
      const float* from =
          latent.floats() + (channel * height + rows.start + row) * width + columns.start;
      to = std::copy_n(from, columns.length, to);
    }
  }
  return piece;
}

// picture += (row_weight * column_weight) * tile at the place of the tile.
void add_weighted(HostTensor& picture, const HostTensor& tile, const AxisTile& rows,
                  const AxisTile& columns, std::int64_t factor) {
  const std::int64_t height = picture.shape[2];
  const std::int64_t width = picture.shape[3];
  const std::int64_t top = rows.start * factor;
  const std::int64_t left = columns.start * factor;
  const float* from = tile.floats();
  for (std::int64_t channel = 0; channel < kColours; ++channel) {
    for (std::size_t row = 0; row < rows.weights.size(); ++row) {
      const std::int64_t line = channel * height + top + static_cast<std::int64_t>(row);
      float* to = picture.floats() + line * width + left;
      for (const float column_weight : columns.weights) {
        const float weight = rows.weights[row] * column_weight;
        *to++ += weight * *from++;
      }
    }
  }
}

}  // namespace

Tiling checked_tiling(std::int64_t tile, std::int64_t overlap) {
  if (tile < kMinTile) {
    throw Error(ErrorCode::invalid_request,
                {.what = "the VAE tile is too small",
                 .got = repr(tile),
                 .expected = "at least " + std::to_string(kMinTile) + " latent samples",
                 .fix = "64 is usual"});
  }
  if (overlap <= 0 || overlap > tile / 2) {
    throw Error(ErrorCode::invalid_request,
                {.what = "the overlap of VAE tiles is out of range",
                 .got = repr(overlap),
                 .expected = "1 to " + std::to_string(tile / 2) + ", half of a tile",
                 .fix = "a quarter of the tile is usual"});
  }
  return {tile, overlap};
}

std::optional<Tiling> default_tiling(Size latent, bool low_memory) {
  if (latent.height * latent.width <= kUntiledArea) return std::nullopt;
  return low_memory ? kLowMemoryTiling : kDefaultTiling;
}

std::vector<AxisTile> axis_tiles(std::int64_t size, const Tiling& tiling, std::int64_t factor) {
  const std::int64_t length = std::min(tiling.tile, size);
  const std::int64_t stride = tiling.tile - tiling.overlap;
  const std::int64_t count = axis_tile_count(size, tiling);
  std::vector<std::int64_t> starts;
  std::vector<std::vector<double>> ramps;
  std::vector<double> total(index(size * factor), 0.0);
  for (std::int64_t k = 0; k < count; ++k) {
    starts.push_back(std::min(k * stride, size - length));
    ramps.push_back(ramp_of(length * factor, tiling.overlap * factor, k == 0, k == count - 1));
    double* sums = total.data() + starts.back() * factor;
    for (const double value : ramps.back()) *sums++ += value;
  }
  std::vector<AxisTile> tiles;
  for (std::size_t k = 0; k < starts.size(); ++k) {
    AxisTile tile{starts[k], length, {}};
    const double* sums = total.data() + starts[k] * factor;
    for (const double value : ramps[k]) {
      tile.weights.push_back(static_cast<float>(value / *sums++));
    }
    tiles.push_back(std::move(tile));
  }
  return tiles;
}

Size tile_size(Size latent, const Tiling& tiling) {
  return {std::min(tiling.tile, latent.height), std::min(tiling.tile, latent.width)};
}

std::int64_t tile_count(Size latent, const Tiling& tiling) {
  return axis_tile_count(latent.height, tiling) * axis_tile_count(latent.width, tiling);
}

HostTensor decode_tiled(const DecodePiece& decode, const HostTensor& latent, const Tiling& tiling,
                        std::int64_t factor, const std::function<void()>& after_tile) {
  const std::int64_t height = latent.shape[2];
  const std::int64_t width = latent.shape[3];
  const std::vector<AxisTile> columns = axis_tiles(width, tiling, factor);
  HostTensor picture =
      HostTensor::zeros({1, kColours, height * factor, width * factor}, Dtype::float32);
  for (const AxisTile& row : axis_tiles(height, tiling, factor)) {
    for (const AxisTile& column : columns) {
      add_weighted(picture, decode(piece_of(latent, row, column)), row, column, factor);
      after_tile();
    }
  }
  return picture;
}

}  // namespace libfam
