// Polynomials of multiply-adds, for the formulas of every device.
#pragma once

#include "ops/multiply_add.h"

namespace edfcore::EDF_ISA {

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
