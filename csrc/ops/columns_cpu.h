// For *.cpu.cpp: folds of many outputs at once whose terms lie side by side, so that a term of each is one
// run of memory and the compiler's vectors go over outputs.
#pragma once

#include "ops/rows_cpu.h"

namespace edfcore::EDF_ISA {

inline constexpr std::int64_t most_columns = 1024;  // whose sums stay in the first-level cache

// Terms are taken by fours, and those that are added in a tree of their own: what has been accumulated then
// goes through memory once for four terms.
template <class Fold, class T>
struct Columns {
  using Acc = typename Fold::template Acc<T>;
  alignas(64) Acc acc[most_columns];

  void start(std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; ++j) acc[j] = Fold::template start<T>();
  }

  // `terms` rows, each `step` after the one before.
  void add(const T* x, std::int64_t terms, std::int64_t step, std::int64_t columns) {
    std::int64_t i = 0;
    if constexpr (has_vectors<T>) {
      for (; i + 4 <= terms; i += 4, x += 4 * step) {
        std::int64_t j = 0;
        for (; j + together <= columns; j += together) add_four(x + j, step, acc + j);
        for (; j < columns; ++j)
          acc[j] = joined(acc[j], [&](std::int64_t r) { return static_cast<Acc>(x[r * step + j]); });
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

 private:
  static constexpr std::int64_t together = 64 / std::int64_t{sizeof(T)};  // columns in a cache line

  template <class V, class Term>
  static V joined(V a, const Term& term) {
    if constexpr (Fold::selects)
      return Fold::join(Fold::join(Fold::join(Fold::join(a, term(0)), term(1)), term(2)), term(3));
    else
      return Fold::join(a, Fold::join(Fold::join(term(0), term(1)), Fold::join(term(2), term(3))));
  }
  // The next four are fetched, too: hardware does not look that far ahead in rows that lie apart.
  static void add_four(const T* x, std::int64_t step, Acc* to) {
    for (std::int64_t r = 4; r < 8; ++r) __builtin_prefetch(x + r * step);
    EDF_UNROLL
    for (std::int64_t j = 0; j < together; j += lanes<Acc>)
      store(to + j, joined(load(to + j), [&](std::int64_t r) {
              if constexpr (Fold::selects)
                return load(x + r * step + j);
              else
                return load_as_double(x + r * step + j);
            }));
  }
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

// Of a run of memory, measured from its first term.
template <class T>
Moments moments_of(const T* x, std::int64_t n) {
  if (n == 0) return {};
  const double shift = static_cast<double>(x[0]);
  Sums sum, squares;
  const auto add = [&](const T* e) {
    Vector<double> d[Sums::vectors];
    EDF_UNROLL
    for (int v = 0; v < Sums::vectors; ++v) d[v] = load_as_double(e + v * lanes<double>) - shift;
    EDF_UNROLL
    for (int v = 0; v < Sums::vectors; ++v) sum.at[v] += d[v];
    EDF_UNROLL
    for (int v = 0; v < Sums::vectors; ++v) squares.at[v] += d[v] * d[v];
  };
  const std::int64_t whole = n / fold_lanes * fold_lanes;
  for (std::int64_t i = 0; i < whole; i += fold_lanes) add(x + i);
  if (whole < n) add(rest_of(x, n, x[0]).at);
  return {static_cast<double>(n), shift, sum.joined(), squares.joined()};
}

struct VarFold {
  static constexpr bool selects = false;
  template <class T>
  using Acc = Moments;
  template <class T>
  static Moments start() {
    return {};
  }
  template <class T>
  static Moments of_run(const T* x, std::int64_t n) {
    return moments_of(x, n);
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

// All columns have as many terms, and their first terms as what the others are measured from.
template <class T>
struct Columns<VarFold, T> {
  double n = 0;
  alignas(64) double shift[most_columns], sum[most_columns], squares[most_columns];

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
