// VAE decoding in overlapping tiles, so that memory is bounded by the tile and not by the picture.
//
// Operation by operation, as fam_runtime/tiling.py specifies it:
//
// 1. Tiles of an axis of `n` latent samples, with tiles of `t` that overlap by at least `o`: one
// tile
//    at 0 of length `n` if n <= t; else tile `k` begins at min(k·(t-o), n-t) for
//    k = 0 … ceil((n-t)/(t-o)). All tiles of a decode have one size.
// 2. Weights of an axis, in pixels (`f` a latent sample): within a tile of T = t·f pixels, pixel
// `i`
//    has the ramp min(1, (i+½)/(o·f), (T-i-½)/(o·f)) in float64; at a tile's side that is the
//    picture's side there is no ramp. At each pixel the ramps of the tiles are divided by their
//    sum, added in the order of the tiles, and rounded to float32.
// 3. Each tile is decoded alone, tile rows outermost. The picture, float32 zeros at first, gets
//    picture += (row_weight · column_weight) · tile, each operation rounded to float32.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/tensor.h"
#include "bundle/manifest.h"

namespace libfam {

// Tile and overlap, in latent samples.
struct Tiling {
  std::int64_t tile = 0;
  std::int64_t overlap = 0;

  bool operator==(const Tiling&) const = default;
};

// Raises: Error(invalid_request) if the tile is too small or the overlap is no part of a tile.
Tiling checked_tiling(std::int64_t tile, std::int64_t overlap);

// Tiling of a latent of this size; nothing decodes it in one piece.
std::optional<Tiling> default_tiling(Size latent, bool low_memory);

// One tile along one axis.
struct AxisTile {
  std::int64_t start = 0;  // in latent samples
  std::int64_t length = 0;
  std::vector<float> weights;  // [length * factor], of its pixels
};

// Tiles of an axis of `size` latent samples, each `factor` pixels.
std::vector<AxisTile> axis_tiles(std::int64_t size, const Tiling& tiling, std::int64_t factor);

// Latent samples of every tile of a latent.
Size tile_size(Size latent, const Tiling& tiling);
// How many tiles a latent takes.
std::int64_t tile_count(Size latent, const Tiling& tiling);

// From a piece of a latent, float32 [1, C, t, t], to its picture, float32 [1, 3, f·t, f·t].
using DecodePiece = std::function<HostTensor(const HostTensor&)>;

// Decodes `latent`, float32 [1, C, height, width], tile by tile; `after_tile` is called after each.
// Returns float32 [1, 3, f·height, f·width].
HostTensor decode_tiled(const DecodePiece& decode, const HostTensor& latent, const Tiling& tiling,
                        std::int64_t factor, const std::function<void()>& after_tile);

}  // namespace libfam
