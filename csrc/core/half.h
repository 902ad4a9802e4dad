// bfloat16 and float16 as they lie in memory, and their conversions from and to float, for every device:
// exact one way, rounded once to the nearest, ties to even, the other. Kernel files have them in their own
// namespace, since no inline function may be shared between instruction sets.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define EDF_HALF __host__ __device__
#elif defined(EDF_HD)
#define EDF_HALF EDF_HD
#else
#define EDF_HALF
#endif

namespace edfcore {

#if defined(EDF_ISA)
namespace EDF_ISA {
#endif

// Eight bits of exponent and eight of precision: the upper half of a float.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  EDF_HALF explicit BFloat16(float x) {
    const std::uint32_t b = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = b + 0x7fffu + (b >> 16 & 1u);
    bits = static_cast<std::uint16_t>((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : rounded >> 16);
  }
  EDF_HALF explicit operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }
};

// Five bits of exponent and eleven of precision, as in IEEE 754.
struct Float16 {
  std::uint16_t bits;

  Float16() = default;
  EDF_HALF explicit Float16(float x) {
    const std::uint32_t b = __builtin_bit_cast(std::uint32_t, x), sign = b >> 16 & 0x8000u,
                        a = b & 0x7fffffffu;
    const std::uint32_t normal = (a + 0xfffu + (a >> 13 & 1u) - (112u << 23)) >> 13;
    // The last place of numbers from 0.5 on is that of the small ones, so a sum rounds to it.
    const std::uint32_t small =
        __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, a) + 0.5f) - (126u << 23);
    const std::uint32_t large = a > 0x7f800000u ? 0x7e00u | (a >> 13 & 0x3ffu) : 0x7c00u;
    bits = static_cast<std::uint16_t>(sign | (a < 113u << 23 ? small : a < 143u << 23 ? normal : large));
  }
  EDF_HALF explicit operator float() const {
    const std::uint32_t sign = (bits & 0x8000u) << 16, a = (bits & 0x7fffu) << 13;
    const std::uint32_t most = a + ((a < 31u << 23 ? 112u : 224u) << 23);
    const float small = __builtin_bit_cast(float, a + (113u << 23)) - 0x1p-14f;
    return __builtin_bit_cast(float, sign | (a < 1u << 23 ? __builtin_bit_cast(std::uint32_t, small) : most));
  }
};

// A float that rounds to half as x itself does: of the two next to x, the one whose last bit is 1 (Boldo and
// Melquiond).
EDF_HALF inline float rounded_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  const double back = static_cast<double>(nearest);
  const std::uint32_t b = __builtin_bit_cast(std::uint32_t, nearest);
  if (back == x || x != x || (b & 1u)) return nearest;
  const bool beyond = x < 0 ? back < x : back > x;
  return __builtin_bit_cast(float, beyond ? b - 1 : b + 1);
}

// A double that rounds to half as a 64-bit integer does, whose low bits it has no room for.
EDF_HALF inline double without_low_bits(std::int64_t x) {
  const std::int64_t low = 0xfff;
  const bool fits = x < std::int64_t{1} << 53 && x > -(std::int64_t{1} << 53);
  return static_cast<double>(fits || (x & low) == 0 ? x : (x & ~low) | 0x800);
}

#if defined(EDF_ISA)
}  // namespace EDF_ISA
#endif

}  // namespace edfcore
