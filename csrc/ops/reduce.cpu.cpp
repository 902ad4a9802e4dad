// CPU kernels of the reductions and of broadcast_to.
#include "ops/rows_cpu.h"
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t work = 32768;  // elements that one chunk reads, about
constexpr std::int64_t segment = 64;  // outputs that are accumulated side by side
constexpr std::int64_t block = 4096;  // terms of a contiguous run that are folded at once
constexpr std::int64_t max_splits =
    64;  // of the terms of one output; scratch_reduce in reduce.cpp knows both

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
    acc = Fold::join(acc, fold<Fold, T>(smaller(block, r.reduced.inner() - first),
                                        [=](std::int64_t i) { return terms[i]; }));
  }
  return acc;
}

// `count` outputs side by side, their units [u0, u1).
template <class Fold, class T, class Acc>
void reduce_columns(const Reduction& r, const T* x, std::int64_t count, std::int64_t u0, std::int64_t u1,
                    Acc* acc) {
  for (std::int64_t j = 0; j < count; ++j) acc[j] = Fold::template start<T>();
  for (std::int64_t u = u0; u < u1; ++u) {
    const T* terms = x + r.reduced.offset(0, u);
    EDF_INDEPENDENT
    for (std::int64_t j = 0; j < count; ++j) acc[j] = Fold::join(acc[j], static_cast<Acc>(terms[j]));
  }
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
    for (std::int64_t j = 0; j < count; j += segment) {
      Acc acc[segment];
      const std::int64_t n = smaller(segment, count - j);
      reduce_columns<Fold, T, Acc>(r, x + offset[0] + j, n, u0, u1, acc);
      for (std::int64_t l = 0; l < n; ++l) put(first + j + l, acc[l]);
    }
  });
}

// Few outputs with many terms: each chunk folds a part of the terms into scratch; the parts are joined in
// order.
template <class Fold, class T, class Put>
void reduce_split(const Launch& launch, const Reduction& r, const T* x, std::int64_t outputs,
                  std::int64_t splits, const Put& put) {
  using Acc = typename Fold::template Acc<T>;
  Acc* parts = static_cast<Acc*>(launch.scratch);
  const std::int64_t units = r.units();
  parallel_ranges(splits, 1, [&](std::int64_t s, std::int64_t) {
    reduce_range<Fold>(r, x, 0, outputs, units * s / splits, units * (s + 1) / splits,
                       [&](std::int64_t i, Acc acc) { parts[s * outputs + i] = acc; });
  });
  for (std::int64_t i = 0; i < outputs; ++i) {
    Acc acc = Fold::template start<T>();
    for (std::int64_t s = 0; s < splits; ++s) acc = Fold::join(acc, parts[s * outputs + i]);
    put(i, acc);
  }
}

// put(output, acc) for every output.
template <class Fold, class T, class Put>
void reduce(const Launch& launch, const bool* is_reduced, const Put& put) {
  const Reduction r(launch.in[0], is_reduced);
  const T* x = pointer<const T>(launch.in[0]);
  const std::int64_t outputs = launch.out[0].size, terms = r.reduced.size(), units = r.units();
  const std::int64_t splits = smaller(smaller(ceil_div(outputs * terms, work), max_splits), units);
  if (outputs < segment && splits > 1) return reduce_split<Fold>(launch, r, x, outputs, splits, put);
  const std::int64_t grain = at_least_one(work / at_least_one(terms));
  parallel_ranges(
      outputs, r.runs() ? grain : ceil_div(grain, segment) * segment,
      [&](std::int64_t begin, std::int64_t end) { reduce_range<Fold>(r, x, begin, end, 0, units, put); });
}

struct MinFold {  // NaN wins here, too
  static constexpr bool selects = true;
  template <class T>
  using Acc = T;
  template <class T>
  static T start() {
    if constexpr (T(1) / T(2) != T(0))
      return -MaxFold::start<T>();
    else
      return static_cast<T>(~MaxFold::start<T>());
  }
  template <class T>
  static T join(T a, T b) {
    return (b < a) | (b != b) ? b : a;
  }
};

// Of some terms: how many, one of them, and the sums of the others' distances to it and of their squares.
struct Moments {
  double n = 0, shift = 0, sum = 0, squares = 0;

  Moments() = default;
  explicit Moments(double x) : n(1), shift(x) {}

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
    reduce<SumFold, T>(launch, is_reduced, [=](std::int64_t i, double acc) { y[i] = static_cast<T>(acc); });
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
    reduce<SumFold, T>(launch, is_reduced,
                       [=](std::int64_t i, double acc) { y[i] = static_cast<T>(acc / n); });
  });
}

void max_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  visit_numeric(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<MaxFold, T>(launch, is_reduced, [=](std::int64_t i, T acc) { y[i] = acc; });
  });
}

void min_kernel(const Launch& launch) {
  bool is_reduced[max_loops] = {};
  mark_axes(*launch.attrs, is_reduced);
  visit_numeric(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = pointer<T>(launch.out[0]);
    reduce<MinFold, T>(launch, is_reduced, [=](std::int64_t i, T acc) { y[i] = acc; });
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
    reduce<VarFold, T>(launch, is_reduced,
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

void sum_to_kernel(const Launch& launch) {
  const View &x = launch.in[0], &y = launch.out[0];
  bool is_reduced[max_loops] = {};
  for (int i = 0; i < x.rank; ++i) {
    const int axis = i - (x.rank - y.rank);
    is_reduced[i] = axis < 0 || (y.dims[axis] == 1 && x.dims[i] != 1);
  }
  visit_floating(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* to = pointer<T>(y);
    reduce<SumFold, T>(launch, is_reduced, [=](std::int64_t i, double acc) { to[i] = static_cast<T>(acc); });
  });
}

void broadcast_to_kernel(const Launch& launch) {
  if (launch.out[0].size == 0) return;
  visit_bits(launch.out[0].dtype, [&](auto bits) {
    using T = decltype(bits);
    copy_strided(broadcast_loops<1>(launch.out[0], launch.in), pointer<const T>(launch.in[0]),
                 pointer<T>(launch.out[0]));
  });
}

}  // namespace edfcore::EDF_ISA
