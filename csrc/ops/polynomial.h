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

// c0 + c1 x + c2 x x + ..., by fours, which need not wait for each other: a single chain of additions would
// be slower than what the processor can look ahead.
template <class T>
EDF_HD inline T polynomial_by_fours(T, T, T, T a) {
  return a;
}
template <class T>
EDF_HD inline T polynomial_by_fours(T x, T, T, T a, T b) {
  return multiply_add(b, x, a);
}
template <class T>
EDF_HD inline T polynomial_by_fours(T x, T x2, T, T a, T b, T c) {
  return multiply_add(c, x2, multiply_add(b, x, a));
}
template <class T>
EDF_HD inline T polynomial_by_fours(T x, T x2, T, T a, T b, T c, T d) {
  return multiply_add(multiply_add(d, x, c), x2, multiply_add(b, x, a));
}
template <class T, class... Others>
EDF_HD inline T polynomial_by_fours(T x, T x2, T x4, T a, T b, T c, T d, Others... others) {
  return multiply_add(polynomial_by_fours(x, x2, x4, others...), x4,
                      polynomial_by_fours(x, x2, x4, a, b, c, d));
}
template <class T, class... C>
EDF_HD inline T polynomial(T x, T c0, C... others) {  // the last sum by itself, so that few roundings weigh
  const T x2 = x * x;
  return multiply_add(polynomial_by_fours(x, x2, x2 * x2, others...), x, c0);
}

}  // namespace edfcore::EDF_ISA
