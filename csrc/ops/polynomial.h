// What the kernels of every device build formulas from: a multiply-add that is fused where that is fast, and
// polynomials of it.
#pragma once

#include <math.h>

#if defined(__CUDACC__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define EDF_FUSED  // elsewhere fma would be a slow call
#endif

namespace edfcore::EDF_ISA {

// a * b + c
#ifdef EDF_FUSED
EDF_HD inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
EDF_HD inline double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }
#else
EDF_HD inline float multiply_add(float a, float b, float c) { return a * b + c; }
EDF_HD inline double multiply_add(double a, double b, double c) { return a * b + c; }
#endif

// What rounding x * x to `square` lost, where nothing overflows.
#ifdef EDF_FUSED
EDF_HD inline float lost_in_square(float x, float square) { return fmaf(x, x, -square); }
EDF_HD inline double lost_in_square(double x, double square) { return ::fma(x, x, -square); }
#else
EDF_HD inline float lost_in_square(float x, float square) {
  return static_cast<float>(double(x) * double(x) - double(square));
}
EDF_HD inline double lost_in_square(double x, double square) {  // by halves, as Dekker does
  const double big = x * 134217729.0, high = big - (big - x), low = x - high;
  return ((high * high - square) + 2 * high * low) + low * low;
}
#endif

// c0 + c1 x + c2 x x + ...
template <class T>
EDF_HD inline T polynomial(T, T c0) {
  return c0;
}
template <class T, class... C>
EDF_HD inline T polynomial(T x, T c0, C... others) {
  return multiply_add(polynomial(x, others...), x, c0);
}

}  // namespace edfcore::EDF_ISA
