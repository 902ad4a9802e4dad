// For *.cpu.cpp: reductions over contiguous memory, in an order that depends on the length alone.
#pragma once

#include "ops/simd_cpu.h"

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
  template <class V>
  static V join(V a, V b) {
    return a + b;
  }
};

// NaN wins, as in NumPy.
struct MaxFold {
  static constexpr bool selects = true;
  template <class V>
  static V prefer(V a, V b) {  // of numbers
    return b > a ? b : a;
  }
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

// Sixteen sums, in the order of `fold`.
struct Sums {
  static constexpr int vectors = fold_lanes / lanes<double>;
  Vector<double> at[vectors] = {};

  // term(i) is a vector of the terms from number i on, in double.
  template <class Term>
  EDF_HD void add_each(const Term& term) {
    EDF_UNROLL
    for (int v = 0; v < vectors; ++v) at[v] += term(v * lanes<double>);
  }
  template <class T>
  EDF_HD void add(const T* e) {
    add_each([=](int i) { return load_as_double(e + i); });
  }
  double joined() const {
    Vector<double> v[vectors];
    EDF_UNROLL
    for (int i = 0; i < vectors; ++i) v[i] = at[i];
    EDF_UNROLL
    for (int half = vectors / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) v[i] += v[i + half];
    return join_lanes<double>(v[0], [](auto a, auto b) { return a + b; });
  }
};

// What fills no sixteen at the end of a row, and other lanes.
template <class T>
struct Rest {
  alignas(64) T at[fold_lanes];
  std::int64_t count = 0;

  // Which of the lanes from l on are among them.
  auto first(int l) const {
    static constexpr T numbers[fold_lanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load(numbers + l) < broadcast(static_cast<T>(count));
  }

  // The others become `other`.
  void load_some(const T* x, T other) {
    for (int l = 0; l < fold_lanes; l += lanes<T>)
      store(at + l, first(l) ? load_first(x + l, count - l) : broadcast(other));
  }
  void clear_others() {
    for (int l = 0; l < fold_lanes; l += lanes<T>) store(at + l, first(l) ? load(at + l) : Vector<T>{});
  }
  void store_some(T* to) const {
    for (int l = 0; l < fold_lanes; l += lanes<T>) store_first(to + l, load(at + l), count - l);
  }
};

// Of n elements, those behind the last sixteen.
template <class T>
Rest<T> rest_of(const T* x, std::int64_t n, T other = 0) {
  Rest<T> rest;
  rest.count = n % fold_lanes;
  rest.load_some(x + n - rest.count, other);
  return rest;
}

template <class T>
double sum_of(const T* x, std::int64_t n) {
  Sums sums;
  const std::int64_t whole = n / fold_lanes * fold_lanes;
  for (std::int64_t i = 0; i < whole; i += fold_lanes) sums.add(x + i);
  if (whole < n) sums.add(rest_of(x, n).at);
  return sums.joined();
}

template <class T>
double dot_of(const T* x, const T* y, std::int64_t n) {
  Sums sums;
  const auto add = [&](const T* a, const T* b) {
    sums.add_each([=](int i) { return load_as_double(a + i) * load_as_double(b + i); });
  };
  const std::int64_t whole = n / fold_lanes * fold_lanes;
  for (std::int64_t i = 0; i < whole; i += fold_lanes) add(x + i, y + i);
  if (whole < n) add(rest_of(x, n).at, rest_of(y, n).at);
  return sums.joined();
}

// The best by Fold::prefer, in four chains of vectors. A NaN is passed over; `other`, of which there are as
// many chains, sees every vector.
template <class Fold, class T, class Other>
T best_of(const T* x, std::int64_t n, const Other& other) {
  constexpr std::int64_t all = 4 * lanes<T>;
  const auto prefer = [](auto a, auto b) { return Fold::prefer(a, b); };
  Vector<T> best[4];
  for (Vector<T>& b : best) b = broadcast(Fold::template start<T>());
  std::int64_t i = 0;
  for (; i + all <= n; i += all) {
    EDF_UNROLL
    for (int v = 0; v < 4; ++v) {
      const Vector<T> terms = load(x + i + v * lanes<T>);
      best[v] = prefer(best[v], terms);
      other(v, terms);
    }
  }
  for (; i + lanes<T> <= n; i += lanes<T>) {
    const Vector<T> terms = load(x + i);
    best[0] = prefer(best[0], terms);
    other(0, terms);
  }
  T last = Fold::template start<T>();
  for (; i < n; ++i) {
    last = prefer(last, x[i]);
    other(0, broadcast(x[i]));
  }
  return prefer(join_lanes<T>(prefer(prefer(best[0], best[1]), prefer(best[2], best[3])), prefer), last);
}

// The largest element. A NaN is passed over: who subtracts this from its row finds it there.
template <class T>
T top_of(const T* x, std::int64_t n) {
  return best_of<MaxFold>(x, n, [](int, Vector<T>) {});
}

// Of floating numbers. Times zero, all but NaN and infinities add up to zero: only where they do not is each
// compared with itself as well. So it is where the best is a zero, whose sign would depend on the chains.
template <class Fold, class T>
T select_of(const T* x, std::int64_t n) {
  Vector<T> zeros[4] = {};
  const T best = best_of<Fold>(x, n, [&](int chain, Vector<T> terms) { zeros[chain] += terms * T(0); });
  const Vector<T> sum = (zeros[0] + zeros[1]) + (zeros[2] + zeros[3]);
  if (best != T(0) && join_lanes<T>(sum, [](auto a, auto b) { return a + b; }) == T(0)) return best;
  return fold<Fold, T>(n, [=](std::int64_t i) { return x[i]; });
}

// Of a run of memory, as the fold itself says or else by vectors; sums are those of `fold`.
template <class Fold, class T>
auto fold_run(const T* x, std::int64_t n) {
  if constexpr (requires { Fold::of_run(x, n); })
    return Fold::of_run(x, n);
  else if constexpr (has_vectors<T> && Fold::selects)
    return select_of<Fold>(x, n);
  else if constexpr (has_vectors<T>)
    return sum_of(x, n);
  else
    return fold<Fold, T>(n, [=](std::int64_t i) { return x[i]; });
}

}  // namespace edfcore::EDF_ISA
