// For *.cpu.cpp: one row of softmax, which the softmax and the log-loss of scores both begin with.
#pragma once

#include "ops/rows_cpu.h"

#include "ops/elementwise.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

constexpr std::int64_t softmax_work = 4096;  // elements in a chunk, about

// body(first, n) for every row of n classes, in parallel.
template <class Body>
void softmax_rows(const View& x, const Body& body) {
  const std::int64_t n = x.dims[x.rank - 1];
  if (n == 0) return;
  parallel_ranges(x.size / n, softmax_work / n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row * n, n);
  });
}

// log(sum(exp(x - top))) where top is the row's maximum, so that no exponent is positive.
template <class T>
T log_sum_exp_below(const T* x, std::int64_t n, T top) {
  return static_cast<T>(log_(fold<SumFold, T>(n, [=](std::int64_t i) { return exp_(x[i] - top); })));
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

}  // namespace edfcore::EDF_ISA
