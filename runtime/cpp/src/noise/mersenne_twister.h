// The 32-bit Mersenne Twister, seeded as torch's CPU generator seeds it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace libfam {

// mt19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998) with the seeding `init_genrand` of its 2002
// version: the words of std::mt19937, made and handed out in blocks, which is several times faster.
class MersenneTwister {
 public:
  // torch takes a seed of 64 bits and keeps its low 32 (`at::mt19937_engine::init_with_uint32`).
  explicit MersenneTwister(std::uint64_t seed);

  std::uint32_t word();
  // Fills `values` from [0, 1): the low 24 bits of a word, / 2^24.
  void uniform32(std::span<float> values);
  // One value in [0, 1): the low 53 bits of two words, the first one high, / 2^53.
  double uniform64();

 private:
  static constexpr std::size_t kSize = 624;

  void refill();

  std::array<std::uint32_t, kSize> state_;
  std::array<std::uint32_t, kSize> words_;  // the state, tempered
  std::size_t position_ = kSize;            // of the next word
};

}  // namespace libfam
