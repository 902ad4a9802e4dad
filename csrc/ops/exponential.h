// e^x in parts, for the formulas of every device: who goes on computing with a power keeps what rounding it
// would lose, and where its result is scaled.
#pragma once

#include <stdint.h>

#include "ops/polynomial.h"

namespace edfcore::EDF_ISA {

template <class T>
struct Format;

// Arguments are reduced as Cody and Waite do, by a multiple of ln 2 in two parts.
template <>
struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23;
  static constexpr float bias = 127, to_integer = 0x1.8p23f;  // adding and subtracting this one rounds
  static constexpr float log2_e = 1.44269504f, ln2_high = 0x1.62e4p-1f, ln2_low = 1.4286068e-6f;
  static constexpr float exp_low = -104, exp_high = 89;  // beyond: 0 and infinity
  static constexpr float step = 64,
                         step_down = 0x1p-64f;  // two of them go from 1 to the smallest normal number

  // (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
  EDF_HD static float exp_tail(float r) {
    return polynomial(r, 0.49999994f, 0.166665196f, 0.0416683815f, 0.00836888142f, 0.00138159201f);
  }
};

template <>
struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr double bias = 1023, to_integer = 0x1.8p52;
  static constexpr double log2_e = 1.4426950408889634, ln2_high = 0x1.62e42fefa38p-1,
                          ln2_low = 5.497923018708371e-14;
  static constexpr double exp_low = -746, exp_high = 710;
  static constexpr double step = 512, step_down = 0x1p-512;

  EDF_HD static double exp_tail(double r) {
    return polynomial(r, 0.500000000000001, 0.1666666666666668, 0.041666666666519352, 0.0083333333333190998,
                      0.0013888888948624671, 0.0001984126989456793, 2.4801486418869754e-05,
                      2.7557234275631728e-06, 2.7632996902323372e-07, 2.5112854612156645e-08);
  }
};

template <class T>
using Bits = typename Format<T>::Bits;

template <class T>
EDF_HD inline Bits<T> bits_of(T x) {
  return __builtin_bit_cast(Bits<T>, x);
}
template <class T>
EDF_HD inline T from_bits(Bits<T> bits) {
  return __builtin_bit_cast(T, bits);
}

// The integer nearest to x, of at most 2^22 or 2^51; the compiler may not cancel this without -ffast-math.
template <class T>
EDF_HD inline T nearest(T x) {
  return (x + Format<T>::to_integer) - Format<T>::to_integer;
}

// 2^n for an integer n whose power is a normal number: the sum's low bits are n.
template <class T>
EDF_HD inline T power_of_two(T n) {
  constexpr T to_bits = Format<T>::to_integer + Format<T>::bias;
  return from_bits<T>(bits_of(n + to_bits) << Format<T>::mantissa);
}

// part * 2^n for an integer n of at most 63 or 511, rounded once: the first product is a normal number.
template <class T>
EDF_HD inline T scaled_down(T part, T n) {
  return part * power_of_two(n + Format<T>::step) * Format<T>::step_down;
}

// e^x = 2^n (part + low), part near 1; low is what rounding to part lost.
template <class T>
struct Exponential {
  T n, part, low;

  EDF_HD explicit Exponential(T x) : n(nearest(x * Format<T>::log2_e)) {
    const T r = multiply_add(n, -Format<T>::ln2_low, multiply_add(n, -Format<T>::ln2_high, x));
    const T beyond_one = multiply_add(r * r, Format<T>::exp_tail(r), r);
    part = T(1) + beyond_one;
    low = beyond_one - (part - T(1));
  }
};

}  // namespace edfcore::EDF_ISA
