// For *.cpu.cpp: exp, log, log1p and tanh without branches, calls or tables, so that the compiler vectorises
// the loops they stand in; most of the kernels' time went to libm, one element at a time.
#pragma once

#include <math.h>

#include "ops/exponential.h"

// Arguments are reduced as Cody and Waite do, by a multiple of ln 2 in two parts; what is left goes to
// minimax polynomials from Remez exchanges in 200 bits. Every result is within 2 units in the last place, an
// element's bits are those of the scalar code wherever it stands, and selects take the place of branches.

namespace edfcore::EDF_ISA {

template <class T>
struct Constants;

template <>
struct Constants<float> : Format<float> {
  static constexpr Bits one = 0x3f800000, root_half = 0x3f3504f3;
  static constexpr float smallest_normal = 0x1p-126f, infinity = __builtin_huge_valf(),
                         nan = __builtin_nanf("");
  static constexpr float tanh_high = 10;  // beyond: 1

  // (ln((1 + s) / (1 - s)) / s - 2) / z where z = s s, for s < 0.172
  EDF_HD static float log_tail(float z) { return polynomial(z, 0.666667819f, 0.399759859f, 0.299282551f); }
  // (tanh(x) / x - 1) / z where z = x x, for x < 0.5625
  EDF_HD static float tanh_tail(float z) {
    return polynomial(z, -0.333333164f, 0.133324981f, -0.053836707f, 0.0209904704f, -0.0061435434f);
  }
};

template <>
struct Constants<double> : Format<double> {
  static constexpr Bits one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd;
  static constexpr double smallest_normal = 0x1p-1022, infinity = __builtin_huge_val(),
                          nan = __builtin_nan("");
  static constexpr double tanh_high = 20;

  EDF_HD static double log_tail(double z) {
    return polynomial(z, 0.66666666666667096, 0.39999999999514224, 0.2857142873082259, 0.22222198910014904,
                      0.18183581880347663, 0.15312880762191292, 0.14813511619196659);
  }
  EDF_HD static double tanh_tail(double z) {
    return polynomial(z, -0.33333333333333309, 0.13333333333326794, -0.053968253963254116,
                      0.021869488358264966, -0.0088632319852751159, 0.0035920845254358408,
                      -0.0014554881010035135, 0.0005881986082192219, -0.00023271485802437436,
                      8.2314856647413661e-05, -1.885430593786894e-05);
  }
};

// The power of two comes in two factors, or a result near the largest or below the normal ones would be lost.
template <class T>
EDF_HD inline T exp_of(T x) {
  using F = Format<T>;
  const T above = x < F::exp_low ? F::exp_low : x;
  const Exponential<T> e(above > F::exp_high ? F::exp_high : above);
  const T step = e.n < T(0) ? F::step : -F::step, rest = e.n < T(0) ? F::step_down : T(1) / F::step_down;
  return e.part * power_of_two(e.n + step) * rest;
}

// The same for x that is not above 0.
template <class T>
EDF_HD inline T exp_below(T x) {
  using F = Format<T>;
  const Exponential<T> e(x < F::exp_low ? F::exp_low : x);
  return scaled_down(e.part, e.n);
}

// x = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2), for a positive normal x.
template <class T>
struct Logarithm {
  T k, f, s, square;

  EDF_HD explicit Logarithm(T x) {
    using F = Constants<T>;
    constexpr Bits<T> fraction = (Bits<T>(1) << F::mantissa) - 1;
    constexpr T unit = static_cast<T>(Bits<T>(1) << F::mantissa);  // its low bits can be set to an integer
    const Bits<T> shifted = bits_of(x) + (F::one - F::root_half);
    k = from_bits<T>((shifted >> F::mantissa) | bits_of(unit)) - (unit + F::bias);
    f = from_bits<T>((shifted & fraction) + F::root_half) - T(1);
    s = f / (T(2) + f);
    square = T(0.5) * f * f;
  }
  // k ln 2 + ln(1 + f) + low, where ln(1 + f) = f - square + s (square + s s tail): small terms first.
  EDF_HD T sum(T low) const {
    using F = Constants<T>;
    const T z = s * s, tail = multiply_add(z, F::log_tail(z), square);
    return multiply_add(k, F::ln2_high,
                        f - (square - multiply_add(s, tail, multiply_add(k, F::ln2_low, low))));
  }
};

template <class T>
EDF_HD inline T log_of(T x) {
  using F = Constants<T>;
  constexpr T up = static_cast<T>(Bits<T>(1) << F::mantissa);
  const bool subnormal = x < F::smallest_normal;
  Logarithm<T> l(subnormal ? x * up : x);
  l.k = subnormal ? l.k - T(F::mantissa) : l.k;
  const T y = x < F::infinity ? l.sum(T(0)) : x;  // infinity and NaN as they are
  return x < T(0) ? F::nan : x == T(0) ? -F::infinity : y;
}

// Of u = 1 + x, plus what rounding u lost: lost / u, for which 1 / (1 + f) = (1 - s) / (1 + s) needs few
// digits.
template <class T>
EDF_HD inline T log1p_of(T x) {
  using F = Constants<T>;
  const T u = T(1) + x, lost = x < T(1) ? x - (u - T(1)) : T(1) - (u - x);
  const Logarithm<T> l(u);
  const T k = l.k > T(60) ? T(60) : l.k, one_over = (T(1) - l.s) * (T(1) - l.s + l.s * l.s);
  const T y = l.sum(lost * power_of_two(-k) * one_over);
  const T z = x < F::infinity && x != T(0) ? y : x;  // infinity, NaN and zero of either sign as they are
  return x < T(-1) ? F::nan : x == T(-1) ? -F::infinity : z;
}

// x + x^3 P(x^2) where that is precise, else 1 - 2 / (e^2x + 1).
template <class T>
EDF_HD inline T tanh_of(T x) {
  using F = Constants<T>;
  constexpr Bits<T> sign = Bits<T>(1) << (8 * sizeof(T) - 1);
  const T a = from_bits<T>(bits_of(x) & ~sign), z = a * a;
  const T near = multiply_add(a * z, F::tanh_tail(z), a);
  const Exponential<T> e(T(2) * (a > F::tanh_high ? F::tanh_high : a));
  const T far = T(1) - T(2) / multiply_add(e.part, power_of_two(e.n), T(1));
  return from_bits<T>(bits_of(a < T(0.5625) ? near : far) | (bits_of(x) & sign));
}

EDF_HD inline float exp_(float x) { return exp_of(x); }
EDF_HD inline double exp_(double x) { return exp_of(x); }
EDF_HD inline float log_(float x) { return log_of(x); }
EDF_HD inline double log_(double x) { return log_of(x); }
EDF_HD inline float log1p_(float x) { return log1p_of(x); }
EDF_HD inline double log1p_(double x) { return log1p_of(x); }
EDF_HD inline float tanh_(float x) { return tanh_of(x); }
EDF_HD inline double tanh_(double x) { return tanh_of(x); }
EDF_HD inline float sqrt_(float x) { return sqrtf(x); }
EDF_HD inline double sqrt_(double x) { return ::sqrt(x); }
EDF_HD inline float abs_(float x) { return fabsf(x); }
EDF_HD inline double abs_(double x) { return ::fabs(x); }

}  // namespace edfcore::EDF_ISA
