// For *.cpu.cpp: rows of softmax, a long one or some short ones, which the softmax and the log-loss of scores
// both begin with.
#pragma once

#include "ops/short_rows_cpu.h"

#include "ops/elementwise.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

constexpr std::int64_t softmax_work = 4096;  // elements in a chunk, about

// The largest element. A NaN is passed over: who subtracts this from its row finds it there.
template <class T>
T top_of(const T* x, std::int64_t n) {
  constexpr std::int64_t all = 4 * lanes<T>;
  const auto larger = [](auto a, auto b) { return b > a ? b : a; };
  Vector<T> top[4];
  for (Vector<T>& t : top) t = broadcast(MaxFold::start<T>());
  std::int64_t i = 0;
  for (; i + all <= n; i += all) {
    EDF_UNROLL
    for (int v = 0; v < 4; ++v) top[v] = larger(top[v], load(x + i + v * lanes<T>));
  }
  for (; i + lanes<T> <= n; i += lanes<T>) top[0] = larger(top[0], load(x + i));
  T last = MaxFold::start<T>();
  for (; i < n; ++i) last = larger(last, x[i]);
  return larger(join_lanes<T>(larger(larger(top[0], top[1]), larger(top[2], top[3])), larger), last);
}

// log(sum(exp(x - top))) where top is the row's maximum, so that no exponent is positive.
template <class T>
T log_sum_exp_below(const T* x, std::int64_t n, T top) {
  return static_cast<T>(log_(fold<SumFold, T>(n, [=](std::int64_t i) { return exp_(x[i] - top); })));
}

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

// p = exp(x - top), and its sum; p may be x itself.
template <class T>
double exp_row(const T* x, T* p, std::int64_t n, T top) {
  EDF_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) p[i] = exp_(x[i] - top);
  return sum_of(p, n);
}

template <class T>
void softmax_row(const T* x, T* p, std::int64_t n) {
  const T total = static_cast<T>(exp_row(x, p, n, top_of(x, n)));
  for (std::int64_t i = 0; i < n; ++i) p[i] /= total;
}

template <class Rows>
void softmax_short(Rows& rows, std::int64_t n) {
  rows.subtract(n, rows.max(n));
  double total[Rows::rows];
  exp_short(rows, n, total);
  const typename Rows::Wide all = Rows::each(total).all();
  for (std::int64_t c = 0; c < n; ++c) rows.put(c, rows.get(c) / all);
}

}  // namespace edfcore::EDF_ISA
