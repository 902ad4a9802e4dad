// For *.cpu.cpp: rows of softmax, a long one or some short ones, which the softmax and the log-loss of scores
// both begin with.
#pragma once

#include "ops/short_rows_cpu.h"

#include "ops/elementwise.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

constexpr std::int64_t softmax_work = 4096;  // elements in a chunk, about

// exp(x - top) of a row, where top is its maximum, so that no exponent is positive.
template <class T>
struct Powers {
  double total;  // in the order of `fold`
  double log;    // of the total
  Rest<T> rest;
  std::int64_t whole;  // so many before the rest; those that are kept are in p, which may be x itself

  template <bool keep>
  static Powers of(const T* x, T* p, std::int64_t n, T top) {
    Powers made;
    Sums sums;
    const std::int64_t whole = made.whole = n / fold_lanes * fold_lanes;
    if constexpr (keep) {
      EDF_INDEPENDENT
      for (std::int64_t i = 0; i < whole; ++i) p[i] = exp_below(x[i] - top);
      for (std::int64_t i = 0; i < whole; i += fold_lanes) sums.add(p + i);
    } else {
      alignas(64) double each[fold_lanes] = {};
      for (std::int64_t i = 0; i < whole; i += fold_lanes)
        for (int l = 0; l < fold_lanes; ++l) each[l] += double(exp_below(x[i + l] - top));
      sums.add(each);
    }
    made.rest.count = n - whole;
    if (made.rest.count > 0) {
      made.rest.load_some(x + whole, top);
      EDF_INDEPENDENT
      for (int l = 0; l < fold_lanes; ++l) made.rest.at[l] = exp_below(made.rest.at[l] - top);
      made.rest.clear_others();
      sums.add(made.rest.at);
    }
    made.total = sums.joined();
    return made;
  }

  // Of kept ones, in p: f of every element.
  template <class F>
  void map(T* p, const F& f) {
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < whole; ++i) p[i] = f(p[i]);
    if (rest.count == 0) return;
    EDF_INDEPENDENT
    for (int l = 0; l < fold_lanes; ++l) rest.at[l] = f(rest.at[l]);
    rest.store_some(p + whole);
  }
};

// Rows [begin, end), which begin at x, and their powers in p, if they are kept: then(row, top, powers) for
// each. Some at once, a stage after the other: a row's stages wait for each other, those of several rows do
// not.
template <bool keep, class T, class Then>
void rows_of_powers(const T* x, T* p, std::int64_t n, std::int64_t begin, std::int64_t end,
                    const Then& then) {
  constexpr std::int64_t most = 8, elements = 4096;  // which stay in the first-level cache
  T top[most];
  Powers<T> powers[most];
  const std::int64_t at_once = n <= elements / most ? most : n <= elements ? elements / n : 1;
  for (std::int64_t first = begin; first < end; first += at_once) {
    const std::int64_t count = end - first < at_once ? end - first : at_once;
    for (std::int64_t r = 0; r < count; ++r) top[r] = top_of(x + (first + r) * n, n);
    for (std::int64_t r = 0; r < count; ++r)
      powers[r] =
          Powers<T>::template of<keep>(x + (first + r) * n, keep ? p + (first + r) * n : nullptr, n, top[r]);
    double log[most];
    for (std::int64_t r = 0; r < most; ++r) log[r] = r < count ? powers[r].total : 1;
    EDF_INDEPENDENT
    for (std::int64_t r = 0; r < most; ++r) log[r] = log_(log[r]);
    for (std::int64_t r = 0; r < count; ++r) powers[r].log = log[r];
    for (std::int64_t r = 0; r < count; ++r) then(first + r, top[r], powers[r]);
  }
}

// x / by, for many x of a row at the price of one division: a quotient from the reciprocal is corrected by
// what it leaves (Markstein), to the nearest number but for results below the normal ones.
template <class V>
struct Divisor {
  V by, reciprocal;
  explicit Divisor(V v) : by(v), reciprocal(1 / v) {}

  V divide(V x) const {
#if defined(EDF_FUSED) || defined(EDF_EXACT)
    const V q = x * reciprocal;
    return multiply_add(multiply_add(-q, by, x), reciprocal, q);
#else
    return x / by;
#endif
  }
};

template <class Rows>
void exp_short(Rows& rows, std::int64_t n) {
  rows.map(n, [](auto x) { return exp_(x); });
}

// Short rows, whose maxima have been subtracted, become their exponentials, with these sums.
template <class Rows>
void exp_short(Rows& below, std::int64_t n, double (&total)[Rows::rows]) {
  exp_short(below, n);
  Rows::sum(n, total, [&](std::int64_t i) { return below.at[i]; });
}

template <class Rows>
typename Rows::Each logs(const double (&total)[Rows::rows]) {
  double log[Rows::rows];
  for (std::int64_t l = 0; l < Rows::rows; ++l) log[l] = log_(total[l]);
  return Rows::each(log);
}

// log(sum(exp(x))) of such rows.
template <class Rows>
typename Rows::Each log_sum_exp_short(Rows& below, std::int64_t n) {
  double total[Rows::rows];
  exp_short(below, n, total);
  return logs<Rows>(total);
}

template <class Rows>
void softmax_short(Rows& rows, std::int64_t n) {
  rows.subtract(n, rows.max(n));
  double total[Rows::rows];
  exp_short(rows, n, total);
  const Divisor<typename Rows::Wide> all(Rows::each(total).all());
  for (std::int64_t c = 0; c < n; ++c) rows.put(c, all.divide(rows.get(c)));
}

}  // namespace edfcore::EDF_ISA
