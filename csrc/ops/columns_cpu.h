// For *.cpu.cpp: folds of many outputs at once whose terms lie side by side, so that a term of each is one
// run of memory and the compiler's vectors go over outputs.
#pragma once

#include "ops/rows_cpu.h"

namespace edfcore::EDF_ISA {

inline constexpr std::int64_t most_columns = 1024;  // whose sums stay in the first-level cache

// Terms that are added are taken by fours, in a tree of their own: what has been accumulated then goes
// through memory once for four terms. (Selects in a tree would become branches.)
template <class Fold, class T>
struct Columns {
  using Acc = typename Fold::template Acc<T>;
  Acc acc[most_columns];

  void start(std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; ++j) acc[j] = Fold::template start<T>();
  }

  // `terms` rows, each `step` after the one before.
  void add(const T* x, std::int64_t terms, std::int64_t step, std::int64_t columns) {
    std::int64_t i = 0;
    for (; !Fold::selects && i + 4 <= terms; i += 4, x += 4 * step) {
      const T *a = x, *b = a + step, *c = b + step, *d = c + step;
      EDF_INDEPENDENT
      for (std::int64_t j = 0; j < columns; ++j) {
        const Acc first = Fold::join(static_cast<Acc>(a[j]), static_cast<Acc>(b[j]));
        const Acc second = Fold::join(static_cast<Acc>(c[j]), static_cast<Acc>(d[j]));
        acc[j] = Fold::join(acc[j], Fold::join(first, second));
      }
    }
    for (; i < terms; ++i, x += step) {
      EDF_INDEPENDENT
      for (std::int64_t j = 0; j < columns; ++j) acc[j] = Fold::join(acc[j], static_cast<Acc>(x[j]));
    }
  }

  // Adds columns [columns, 2 columns) to the first ones.
  void halve(std::int64_t columns) {
    EDF_INDEPENDENT
    for (std::int64_t j = 0; j < columns; ++j) acc[j] = Fold::join(acc[j], acc[j + columns]);
  }

  Acc at(std::int64_t j) const { return acc[j]; }
};

// Of some terms: how many, one of them, and the sums of the others' distances to it and of their squares.
struct Moments {
  double n = 0, shift = 0, sum = 0, squares = 0;

  Moments() = default;
  explicit Moments(double x) : n(1), shift(x) {}
  Moments(double terms, double x, double distances, double of_squares)
      : n(terms), shift(x), sum(distances), squares(of_squares) {}

  double variance(double terms) const {
    const double m2 = squares - sum * sum / n;
    return (m2 < 0 ? 0 : m2) / terms;
  }
};

struct VarFold {
  static constexpr bool selects = false;
  template <class T>
  using Acc = Moments;
  template <class T>
  static Moments start() {
    return {};
  }
  static Moments join(Moments a, Moments b) {
    if (a.n == 0) return b;
    const double d = b.shift - a.shift, sum = b.sum + b.n * d;
    a.squares += b.squares + d * (b.sum + sum);
    a.sum += sum;
    a.n += b.n;
    return a;
  }
};

// Of a run of memory, measured from its first term; one sum after the other, which is what compilers
// vectorise.
template <class T>
Moments moments_of(const T* x, std::int64_t n) {
  if (n == 0) return {};
  const double shift = static_cast<double>(x[0]);
  const double sum = fold<SumFold, T>(n, [=](std::int64_t i) { return x[i] - shift; });
  const double squares = fold<SumFold, T>(n, [=](std::int64_t i) {
    const double d = x[i] - shift;
    return d * d;
  });
  return {static_cast<double>(n), shift, sum, squares};
}

// All columns have as many terms, and their first terms as what the others are measured from.
template <class T>
struct Columns<VarFold, T> {
  double n = 0;
  double shift[most_columns], sum[most_columns], squares[most_columns];

  void start(std::int64_t columns) {
    n = 0;
    for (std::int64_t j = 0; j < columns; ++j) shift[j] = sum[j] = squares[j] = 0;
  }

  void add(const T* x, std::int64_t terms, std::int64_t step, std::int64_t columns) {
    std::int64_t i = 0;
    if (n == 0 && terms > 0) {
      for (std::int64_t j = 0; j < columns; ++j) shift[j] = static_cast<double>(x[j]);
      x += step;
      i = 1;
    }
    n += static_cast<double>(terms);
    for (; i + 4 <= terms; i += 4, x += 4 * step) {
      const T *a = x, *b = a + step, *c = b + step, *d = c + step;
      EDF_INDEPENDENT
      for (std::int64_t j = 0; j < columns; ++j) {
        const double p = a[j] - shift[j], q = b[j] - shift[j], r = c[j] - shift[j], s = d[j] - shift[j];
        sum[j] += (p + q) + (r + s);
        squares[j] += (p * p + q * q) + (r * r + s * s);
      }
    }
    for (; i < terms; ++i, x += step) {
      EDF_INDEPENDENT
      for (std::int64_t j = 0; j < columns; ++j) {
        const double d = x[j] - shift[j];
        sum[j] += d;
        squares[j] += d * d;
      }
    }
  }

  void halve(std::int64_t columns) {
    EDF_INDEPENDENT
    for (std::int64_t j = 0; j < columns; ++j) {
      const std::int64_t k = j + columns;
      const double d = shift[k] - shift[j], moved = sum[k] + n * d;
      squares[j] += squares[k] + d * (sum[k] + moved);
      sum[j] += moved;
    }
    n *= 2;
  }

  Moments at(std::int64_t j) const { return {n, shift[j], sum[j], squares[j]}; }
};

}  // namespace edfcore::EDF_ISA
