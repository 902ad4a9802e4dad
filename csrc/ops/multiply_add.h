// a * b + c, which the kernels of every device build formulas from: fused where that is fast, rounded twice
// where it is not, and with EDF_EXACT what a fused one gives, in software.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define EDF_FUSED  // elsewhere fma would be a slow call
#endif

namespace edfcore::EDF_ISA {

#if defined(EDF_FUSED)

EDF_HD inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
EDF_HD inline double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// With hardly more than one rounding on any machine, where nothing overflows: what rounding a * b lost is
// fused(a, b, -(a * b)), exactly.
EDF_HD inline float fused(float a, float b, float c) { return multiply_add(a, b, c); }
EDF_HD inline double fused(double a, double b, double c) { return multiply_add(a, b, c); }

#else

// A sum, and what rounding it lost (Knuth).
struct ExactSum {
  double all, lost;
  EDF_HD ExactSum(double a, double b) : all(a + b) {
    const double of_b = all - a;
    lost = (a - (all - of_b)) + (b - of_b);
  }
};

// What rounding a * b to `product` lost (Dekker), where nothing overflows.
EDF_HD inline double upper_half(double x) {
  const double big = x * 134217729.0;
  return big - (big - x);
}
EDF_HD inline double lost_in_product(double a, double b, double product) {
  const double a1 = upper_half(a), b1 = upper_half(b), a2 = a - a1, b2 = b - b1;
  return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
}

#if defined(EDF_EXACT)

// Rounded to odd: rounding that once more cannot be told from rounding the sum itself (Boldo and Melquiond).
EDF_HD inline double to_odd(ExactSum sum) {
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, sum.all);
  const std::uint64_t beyond = (bits ^ __builtin_bit_cast(std::uint64_t, sum.lost)) >> 63;  // of other signs
  const double odd = __builtin_bit_cast(double, (bits - beyond) | 1);
  return fabs(sum.lost) > 0 ? odd : sum.all;
}

EDF_HD inline float multiply_add(float a, float b, float c) {
  return static_cast<float>(to_odd(ExactSum(double(a) * double(b), double(c))));
}

// Out of the range where all parts are numbers of full precision it is the C library's, which is very slow. A
// call, or formulas would take hundreds of kilobytes.
__attribute__((noinline)) inline double multiply_add(double a, double b, double c) {
  const double product = a * b, size = fabs(product), most = 0x1p990;
  if (product == 0 && (a == 0 || b == 0)) return product + c;
  if (!(size > 0x1p-960 && size < most && fabs(a) < most && fabs(b) < most && fabs(c) < most))
    return ::fma(a, b, c);
  const ExactSum low(c, lost_in_product(a, b, product)), high(product, low.all);
  return high.all + to_odd(ExactSum(low.lost, high.lost));
}

EDF_HD inline float fused(float a, float b, float c) { return multiply_add(a, b, c); }
EDF_HD inline double fused(double a, double b, double c) { return multiply_add(a, b, c); }

#else

EDF_HD inline float multiply_add(float a, float b, float c) { return a * b + c; }
EDF_HD inline double multiply_add(double a, double b, double c) { return a * b + c; }

EDF_HD inline float fused(float a, float b, float c) {
  return static_cast<float>(double(a) * double(b) + double(c));
}
EDF_HD inline double fused(double a, double b, double c) {
  const double product = a * b;
  const ExactSum sum(product, c);
  return sum.all + (lost_in_product(a, b, product) + sum.lost);
}

#endif
#endif

}  // namespace edfcore::EDF_ISA
