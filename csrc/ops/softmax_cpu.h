// For *.cpu.cpp: rows of softmax, a long one or some short ones, which the softmax and the log-loss of scores
// both begin with.
#pragma once

#include "ops/short_rows_cpu.h"

#include "ops/elementwise.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

constexpr std::int64_t softmax_work = 4096;  // elements in a chunk, about

// log(sum(exp(x - top))) where top is the row's maximum, so that no exponent is positive.
template <class T>
T log_sum_exp_below(const T* x, std::int64_t n, T top) {
  return static_cast<T>(log_(fold<SumFold, T>(n, [=](std::int64_t i) { return exp_(x[i] - top); })));
}

template <class Rows>
void exp_short(Rows& rows, std::int64_t n) {
  rows.map(n, [](auto x) { return exp_(x); });
}

// The same for short rows, whose maxima have been subtracted and which become their exponentials.
template <class Rows>
typename Rows::Each log_sum_exp_short(Rows& below, std::int64_t n) {
  exp_short(below, n);
  double total[Rows::rows];
  Rows::sum(n, total, [&](std::int64_t i) { return below.at[i]; });
  for (std::int64_t l = 0; l < Rows::rows; ++l) total[l] = log_(total[l]);
  return Rows::each(total);
}

// p may be x itself.
template <class T>
void softmax_row(const T* x, T* p, std::int64_t n) {
  const T top = max_of(x, n);
  EDF_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) p[i] = exp_(x[i] - top);
  const T total = static_cast<T>(sum_of(p, n));
  for (std::int64_t i = 0; i < n; ++i) p[i] /= total;
}

template <class Rows>
void softmax_short(Rows& rows, std::int64_t n) {
  rows.subtract(n, rows.max(n));
  exp_short(rows, n);
  const typename Rows::Wide total = rows.sum(n).all();
  for (std::int64_t c = 0; c < n; ++c) rows.put(c, rows.get(c) / total);
}

}  // namespace edfcore::EDF_ISA
