#include "noise/mersenne_twister.h"

#include <algorithm>

namespace libfam {
namespace {

constexpr std::size_t kMiddle = 397;
constexpr std::uint32_t kUpperBit = 0x80000000;
constexpr std::uint32_t kLowerBits = 0x7FFFFFFF;
constexpr std::uint32_t kTwist = 0x9908B0DF;
constexpr std::uint32_t kSeedMultiplier = 1812433253;

constexpr std::uint32_t twisted(std::uint32_t word, std::uint32_t next, std::uint32_t middle) {
  const std::uint32_t y = (word & kUpperBit) | (next & kLowerBits);
  return middle ^ (y >> 1) ^ ((0u - (y & 1u)) & kTwist);
}

constexpr std::uint32_t tempered(std::uint32_t y) {
  y ^= y >> 11;
  y ^= (y << 7) & 0x9D2C5680;
  y ^= (y << 15) & 0xEFC60000;
  return y ^ (y >> 18);
}

}  // namespace

MersenneTwister::MersenneTwister(std::uint64_t seed) {
  state_[0] = static_cast<std::uint32_t>(seed);
  for (std::size_t i = 1; i < kSize; ++i) {
    const std::uint32_t previous = state_[i - 1];
    state_[i] = kSeedMultiplier * (previous ^ (previous >> 30)) + static_cast<std::uint32_t>(i);
  }
  words_.fill(0);
}

std::uint32_t MersenneTwister::word() {
  if (position_ == kSize) refill();
  return words_[position_++];
}

void MersenneTwister::uniform32(std::span<float> values) {
  for (std::size_t done = 0; done < values.size();) {
    if (position_ == kSize) refill();
    const std::size_t count = std::min(values.size() - done, kSize - position_);
    const std::uint32_t* words = words_.data() + position_;
    float* out = values.data() + done;
    // By way of a signed integer, which the 24 bits fit in: x86 converts those four or more at
    // once.
    for (std::size_t i = 0; i < count; ++i) {
      out[i] = static_cast<float>(static_cast<std::int32_t>(words[i] & 0xFFFFFFu)) * 0x1p-24f;
    }
    position_ += count;
    done += count;
  }
}

double MersenneTwister::uniform64() {
  const std::uint64_t high = word();
  const std::uint64_t low = word();
  return static_cast<double>((high << 32 | low) & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

void MersenneTwister::refill() {
  std::uint32_t* const s = state_.data();
  constexpr std::size_t kFirst = kSize - kMiddle;
  for (std::size_t i = 0; i < kFirst; ++i) s[i] = twisted(s[i], s[i + 1], s[i + kMiddle]);
  for (std::size_t i = kFirst; i < kSize - 1; ++i) s[i] = twisted(s[i], s[i + 1], s[i - kFirst]);
  s[kSize - 1] = twisted(s[kSize - 1], s[0], s[kMiddle - 1]);
  for (std::size_t i = 0; i < kSize; ++i) words_[i] = tempered(s[i]);
  position_ = 0;
}

}  // namespace libfam
