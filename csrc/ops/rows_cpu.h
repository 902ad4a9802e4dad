// For *.cpu.cpp: reductions over contiguous memory, in an order that depends on the length alone.
#pragma once

#include "ops/kernel_cpu.h"

namespace edfcore::EDF_ISA {

// Sums are taken in double: float32 results come out correctly rounded but for rare cases, at the speed of
// memory.
struct SumFold {
  static constexpr bool selects = false;
  template <class T>
  using Acc = double;
  template <class T>
  static double start() {
    return 0;
  }
  static double join(double a, double b) { return a + b; }
};

// NaN wins, as in NumPy.
struct MaxFold {
  static constexpr bool selects = true;
  template <class T>
  using Acc = T;
  template <class T>
  static T start();
  template <class V>  // of a number or of a vector
  static V join(V a, V b) {
    return (b > a) | (b != b) ? b : a;
  }
};
template <>
inline float MaxFold::start<float>() {
  return -__builtin_inff();
}
template <>
inline double MaxFold::start<double>() {
  return -__builtin_inf();
}
template <>
inline std::int32_t MaxFold::start<std::int32_t>() {
  return INT32_MIN;
}
template <>
inline std::int64_t MaxFold::start<std::int64_t>() {
  return INT64_MIN;
}
template <>
inline std::uint8_t MaxFold::start<std::uint8_t>() {
  return 0;
}

// Before a loop over lanes that select: written out, GCC would make branches of them.
#if defined(__GNUC__) && !defined(__clang__)
#define EDF_ROLLED _Pragma("GCC unroll 1")
#else
#define EDF_ROLLED
#endif

constexpr int fold_lanes = 16;

// Folds term(0) .. term(n - 1) with `fold_lanes` accumulators, so that the compiler can use vectors, joined
// in a tree.
template <class Fold, class T, class Term>
typename Fold::template Acc<T> fold(std::int64_t n, const Term& term) {
  using Acc = typename Fold::template Acc<T>;
  constexpr int lanes = fold_lanes;
  Acc acc[lanes];
  for (int l = 0; l < lanes; ++l) acc[l] = Fold::template start<T>();
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    if constexpr (Fold::selects) {
      EDF_ROLLED
      for (int l = 0; l < lanes; ++l) acc[l] = Fold::join(acc[l], static_cast<Acc>(term(i + l)));
    } else {
      for (int l = 0; l < lanes; ++l) acc[l] = Fold::join(acc[l], static_cast<Acc>(term(i + l)));
    }
  }
  for (int l = 0; l < n - i; ++l) acc[l] = Fold::join(acc[l], static_cast<Acc>(term(i + l)));
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) acc[l] = Fold::join(acc[l], acc[l + width]);
  return acc[0];
}

template <class T>
double sum_of(const T* x, std::int64_t n) {
  return fold<SumFold, T>(n, [=](std::int64_t i) { return x[i]; });
}

template <class T>
double dot_of(const T* x, const T* y, std::int64_t n) {
  return fold<SumFold, T>(n, [=](std::int64_t i) { return double(x[i]) * double(y[i]); });
}

template <class T>
T max_of(const T* x, std::int64_t n) {
  return fold<MaxFold, T>(n, [=](std::int64_t i) { return x[i]; });
}

}  // namespace edfcore::EDF_ISA
