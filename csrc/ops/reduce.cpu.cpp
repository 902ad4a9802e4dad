// CPU kernels of the reductions and of broadcast_to.
#include "ops/reduce.h"
#include <string.h>
#include "ops/short_rows_cpu.h"

#include "ops/columns_cpu.h"
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t work = reduce_part;  // elements that one chunk reads, about
constexpr std::int64_t block = 4096;        // terms of a contiguous run that are folded at once

std::int64_t at_least_one(std::int64_t n) { return n < 1 ? 1 : n; }
std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The input's axes in two groups: walking `kept` goes over the outputs in order, walking `reduced` over the
// terms of one.
struct Reduction {
  Loops<1> kept, reduced;

  Reduction(const View& x, const bool* is_reduced) {
    std::int64_t strides[max_loops], step = 1;
    for (int i = x.rank - 1; i >= 0; --i) {
      strides[i] = step;
      step *= x.dims[i];
    }
    for (int i = 0; i < x.rank; ++i) (is_reduced[i] ? reduced : kept).push(x.dims[i], {strides[i]});
    kept.close();
    reduced.close();
  }

  // Are the terms of an output runs of memory? Otherwise the outputs are, and terms lie side by side.
  bool runs() const {
    return kept.inner_stride(0) != 1 || (reduced.inner_stride(0) == 1 && reduced.inner() > 1);
  }
  // Are the terms of the outputs short rows, one after the other? A single one as well, whose sum is then
  // that of the same row among others.
  bool short_rows() const {
    const std::int64_t n = reduced.inner();
    const bool side_by_side = kept.size() == 1 || (kept.rank == 1 && kept.inner_stride(0) == n);
    return reduced.rank == 1 && reduced.inner_stride(0) == 1 && side_by_side && n > 1 && n <= most_short;
  }
  std::int64_t run_blocks() const { return ceil_div(reduced.inner(), block); }
  // What can be split between chunks: blocks of runs, or terms.
  std::int64_t units() const {
    if (reduced.size() == 0) return 0;
    return runs() ? reduced.size() / reduced.inner() * run_blocks() : reduced.size();
  }
};

// One output, its units [u0, u1).
template <class Fold, class T, class Acc>
Acc reduce_runs(const Reduction& r, const T* x, std::int64_t u0, std::int64_t u1) {
  Acc acc = Fold::template start<T>();
  for (std::int64_t u = u0; u < u1; ++u) {
    const std::int64_t run = u / r.run_blocks(), first = (u - run * r.run_blocks()) * block;
    const T* terms = x + r.reduced.offset(0, run, r.reduced.rank - 1) + first;
    const std::int64_t n = smaller(block, r.reduced.inner() - first);
    acc = Fold::join(acc, fold_run<Fold>(terms, n));
  }
  return acc;
}

// `count` outputs side by side, at most most_columns, their terms [u0, u1).
template <class Fold, class T>
void reduce_columns(const Reduction& r, const T* x, std::int64_t count, std::int64_t u0, std::int64_t u1,
                    Columns<Fold, T>& columns) {
  const std::int64_t step = r.reduced.inner_stride(0);
  if (r.reduced.rank > 1 || step != count) {
    columns.start(count);
    r.reduced.rows(u0, u1, [&](std::int64_t, std::int64_t terms, const std::int64_t* offset) {
      columns.add(x + offset[0], terms, step, count);
    });
    return;
  }
  // Rows of few columns that follow each other are as well rows of more columns, which fill vectors.
  std::int64_t together = 1;
  while (together * count < 64 && together * 8 <= u1 - u0) together *= 2;
  const std::int64_t rows = (u1 - u0) / together, wide = together * count;
  columns.start(wide);
  columns.add(x + u0 * step, rows, wide, wide);
  for (std::int64_t width = wide / 2; width >= count; width /= 2) columns.halve(width);
  columns.add(x + (u0 + rows * together) * step, u1 - u0 - rows * together, step, count);
}

// put(output, acc) for outputs [begin, end), each folded over units [u0, u1).
template <class Fold, class T, class Put>
void reduce_range(const Reduction& r, const T* x, std::int64_t begin, std::int64_t end, std::int64_t u0,
                  std::int64_t u1, const Put& put) {
  using Acc = typename Fold::template Acc<T>;
  if (r.runs()) {
    for (std::int64_t i = begin; i < end; ++i)
      put(i, reduce_runs<Fold, T, Acc>(r, x + r.kept.offset(0, i), u0, u1));
    return;
  }
  r.kept.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
    for (std::int64_t j = 0; j < count; j += most_columns) {
      Columns<Fold, T> columns;
      const std::int64_t n = smaller(most_columns, count - j);
      reduce_columns<Fold, T>(r, x + offset[0] + j, n, u0, u1, columns);
      for (std::int64_t l = 0; l < n; ++l) put(first + j + l, columns.at(l));
    }
  });
}

// Many terms: each chunk folds a part of them into scratch; the parts are joined in order.
template <class Fold, class T, class Put>
void reduce_split(const Launch& launch, const Reduction& r, const T* x, std::int64_t outputs,
                  std::int64_t splits, const Put& put) {
  using Acc = typename Fold::template Acc<T>;
  Acc* parts = static_cast<Acc*>(launch.scratch);
  const std::int64_t units = r.units(), bands = ceil_div(outputs, most_columns);
  parallel_ranges(splits * bands, 1, [&](std::int64_t chunk, std::int64_t) {
    const std::int64_t s = chunk / bands, begin = (chunk - s * bands) * most_columns;
    reduce_range<Fold>(r, x, begin, smaller(begin + most_columns, outputs), units * s / splits,
                       units * (s + 1) / splits,
                       [&](std::int64_t i, Acc acc) { parts[s * outputs + i] = acc; });
  });
  parallel_ranges(outputs, most_columns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = 1; s < splits; ++s) {
      const Acc* part = parts + s * outputs;
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) parts[i] = Fold::join(parts[i], part[i]);
    }
    for (std::int64_t i = begin; i < end; ++i) put(i, parts[i]);
  });
}

template <class Fold, class Rows, class Acc>
void fold_short(Rows& rows, std::int64_t n, Acc (&acc)[Rows::rows]) {
  if constexpr (Fold::selects) {
    typename Rows::Wide best = rows.get(0);
    for (std::int64_t c = 1; c < n; ++c) best = Fold::join(best, rows.get(c));
    memcpy(acc, &best, sizeof best);
  } else {
    rows.sum(n, acc, [&](std::int64_t i) { return rows.at[i]; });
  }
}
template <class Fold, class Rows>
void fold_short(Rows& rows, std::int64_t n, Moments (&acc)[Rows::rows]) {
  double sum[Rows::rows], squares[Rows::rows];
  const auto shift = rows.each(rows.get(0));
  rows.subtract(n, shift.all());
  rows.sum(n, sum, [&](std::int64_t i) { return rows.at[i]; });
  rows.sum(n, squares, [&](std::int64_t i) { return double(rows.at[i]) * double(rows.at[i]); });
  for (std::int64_t l = 0; l < Rows::rows; ++l)
    acc[l] = {static_cast<double>(n), static_cast<double>(shift.at[l]), sum[l], squares[l]};
}

template <class Fold, class T, class Put>
void reduce_short(const T* x, std::int64_t outputs, std::int64_t n, const Put& put) {
  short_or_long_rows<T>(
      outputs, n, work,
      [=](auto& few, std::int64_t first, std::int64_t count, std::int64_t room) {
        typename Fold::template Acc<T> acc[few.rows];
        few.load(x + first * n, n, count, room);
        fold_short<Fold>(few, n, acc);
        for (std::int64_t l = 0; l < count; ++l) put(first + l, acc[l]);
      },
      [](std::int64_t, std::int64_t) {});
}

// put(output, acc) for every output, of which there are as many as of the kernel's.
template <class Fold, class T, class Put>
void reduce(const Launch& launch, const View& terms_of_all, const bool* is_reduced, const Put& put) {
  const Reduction r(terms_of_all, is_reduced);
  const T* x = pointer<const T>(terms_of_all);
  const std::int64_t outputs = launch.out[0].size, terms = r.reduced.size(), units = r.units();
  if constexpr (has_vectors<T>)
    if (r.short_rows()) return reduce_short<Fold>(x, outputs, terms, put);
  const bool few = outputs < 64;  // which are not worth chunks of their own
  const std::int64_t splits =
      smaller(smaller(ceil_div(outputs * terms, few ? work : 2 * work), reduce_most_parts),
              smaller(reduce_most_partial / at_least_one(outputs), units));
  if ((few || !r.runs()) && splits > 1) return reduce_split<Fold>(launch, r, x, outputs, splits, put);
  parallel_ranges(
      outputs, r.runs() ? at_least_one(work / at_least_one(terms)) : most_columns,
      [&](std::int64_t begin, std::int64_t end) { reduce_range<Fold>(r, x, begin, end, 0, units, put); });
}

struct MinFold {  // NaN wins here, too
  static constexpr bool selects = true;
  template <class V>
  static V prefer(V a, V b) {
    return b < a ? b : a;
  }
  template <class T>
  using Acc = T;
  template <class T>
  static T start() {
    if constexpr (T(1) / T(2) != T(0))
      return -MaxFold::start<T>();
    else
      return static_cast<T>(~MaxFold::start<T>());
  }
  template <class V>
  static V join(V a, V b) {
    return (b < a) | (b != b) ? b : a;
  }
};

void mark_axes(const Attrs& attrs, bool* is_reduced) {
  for (int i = 0; i < attrs.n_ints; ++i) is_reduced[attrs.ints[i]] = true;
}

// The maximum and the number of its ties decide the mask, so each group is read three times.
template <class T>
void mask_group(const Loops<1>& reduced, const T* x, T* mask) {
  const std::int64_t n = reduced.size();
  const auto at = [&](std::int64_t i) { return reduced.offset(0, i); };
  const T top = fold<MaxFold, T>(n, [&](std::int64_t i) { return x[at(i)]; });
  const auto is_top = [=](T v) { return v == top || (v != v && top != top); };
  std::int64_t ties = 0;
  for (std::int64_t i = 0; i < n; ++i) ties += is_top(x[at(i)]);
  const T share = T(1) / static_cast<T>(ties);
  for (std::int64_t i = 0; i < n; ++i) mask[at(i)] = is_top(x[at(i)]) ? share : T(0);
}

}  // namespace

void sum_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<SumFold, T>(launch, launch.in[0], is_reduced,
                       [=](std::int64_t i, double acc) { y[i] = static_cast<T>(acc); });
  });
}

void mean_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  double n = 1;
  for (int i = 0; i < launch.attrs->n_ints; ++i)
    n *= static_cast<double>(launch.in[0].dims[launch.attrs->ints[i]]);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<SumFold, T>(launch, launch.in[0], is_reduced,
                       [=](std::int64_t i, double acc) { y[i] = static_cast<T>(acc / n); });
  });
}

void max_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  visit_numeric(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<MaxFold, T>(launch, launch.in[0], is_reduced, [=](std::int64_t i, T acc) { y[i] = acc; });
  });
}

void min_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  visit_numeric(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<MinFold, T>(launch, launch.in[0], is_reduced, [=](std::int64_t i, T acc) { y[i] = acc; });
  });
}

void var_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  double terms = 1;
  for (int i = 0; i < launch.attrs->n_ints; ++i)
    terms *= static_cast<double>(launch.in[0].dims[launch.attrs->ints[i]]);
  terms = terms > launch.attrs->scalar ? terms - launch.attrs->scalar : 0;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<VarFold, T>(launch, launch.in[0], is_reduced,
                       [=](std::int64_t i, Moments acc) { y[i] = static_cast<T>(acc.variance(terms)); });
  });
}

void max_mask_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  const Reduction r(launch.in[0], is_reduced);
  if (launch.out[0].size == 0) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    T* mask = pointer<T>(launch.out[0]);
    parallel_ranges(r.kept.size(), at_least_one(work / r.reduced.size()),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        const std::int64_t first = r.kept.offset(0, i);
                        mask_group(r.reduced, x + first, mask + first);
                      }
                    });
  });
}

// To the shape of the kernel's output.
template <class T, class Put>
static void sum_to(const Launch& launch, const View& x, const Put& put) {
  const View& y = launch.out[0];
  bool is_reduced[max_loops] = {};
  for (int i = 0; i < x.rank; ++i) {
    const int axis = i - (x.rank - y.rank);
    is_reduced[i] = axis < 0 || (y.dims[axis] == 1 && x.dims[i] != 1);
  }
  reduce<SumFold, T>(launch, x, is_reduced, put);
}

void sum_to_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* to = pointer<T>(launch.out[0]);
    sum_to<T>(launch, launch.in[0], [=](std::int64_t i, double acc) { to[i] = static_cast<T>(acc); });
  });
}

// After bad data no parameter moves.
void sum_to_sgd_kernel(const Launch& launch) {
  if (launch.status->code != Status::ok) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = pointer<T>(launch.out[0]);
    const T rate = static_cast<T>(launch.attrs->scalar);
    sum_to<T>(launch, launch.in[1], [=](std::int64_t i, double acc) { p[i] -= rate * static_cast<T>(acc); });
  });
}

void broadcast_to_kernel(const Launch& launch) {
  if (launch.out[0].size == 0) return;
  visit_bits(launch.out[0].dtype, [&](auto bits) {
    using T = decltype(bits);
    copy_strided(launch, broadcast_loops<1>(launch.out[0], launch.in), pointer<const T>(launch.in[0]));
  });
}

}  // namespace edfcore::EDF_ISA
