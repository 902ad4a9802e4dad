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

// a * b + c with hardly more than one rounding on any machine, where nothing overflows: what rounding a * b
// lost is fused(a, b, -(a * b)), exactly.
#ifdef EDF_FUSED
EDF_HD inline float fused(float a, float b, float c) { return multiply_add(a, b, c); }
EDF_HD inline double fused(double a, double b, double c) { return multiply_add(a, b, c); }
#else
EDF_HD inline float fused(float a, float b, float c) {
  return static_cast<float>(double(a) * double(b) + double(c));
}
EDF_HD inline double halved(double x) {  // the upper half of its digits
  const double big = x * 134217729.0;
  return big - (big - x);
}
EDF_HD inline double fused(double a, double b, double c) {  // as Dekker and Knuth do
  const double product = a * b, a1 = halved(a), b1 = halved(b), a2 = a - a1, b2 = b - b1;
  const double lost = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
  const double sum = product + c, of_c = sum - product;
  return sum + (lost + ((product - (sum - of_c)) + (c - of_c)));
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
