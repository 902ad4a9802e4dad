// sum, mean, max, max_mask, sum_to and broadcast_to on a CUDA device. Terms are joined in an order that
// depends on shapes alone; few outputs with many terms are reduced in two stages, with partial results in
// scratch.
#include "ops/rows_cuda.h"

namespace edfcore::cuda {

namespace {

template <class T>
constexpr EDF_HD T lowest() {
  if constexpr (T(1) / T(2) != T(0)) {
    return T(-INFINITY);
  } else {
    return T(-1) < T(0) ? static_cast<T>(INT64_MIN >> (64 - 8 * static_cast<int>(sizeof(T)))) : T(0);
  }
}

// A fold says what is accumulated over the terms of an output. `lift` takes a term, or a partial result as it
// is.
struct SumFold {  // in double, so that float32 sums come out correctly rounded but for rare cases
  template <class T>
  using Acc = double;
  template <class T>
  static EDF_HD double start() {
    return 0;
  }
  template <class T>
  static __device__ double lift(T x) {
    return static_cast<double>(x);
  }
  static __device__ double join(double a, double b) { return a + b; }
  template <class Out>
  static __device__ Out finish(double acc, double) {
    return static_cast<Out>(acc);
  }
};

struct MeanFold : SumFold {
  template <class Out>
  static __device__ Out finish(double acc, double terms) {
    return static_cast<Out>(acc / terms);
  }
};

struct MaxFold {
  template <class T>
  using Acc = T;
  template <class T>
  static EDF_HD T start() {
    return lowest<T>();
  }
  template <class T>
  static __device__ T lift(T x) {
    return x;
  }
  template <class T>
  static __device__ T join(T a, T b) {
    return Larger{}(a, b);
  }
  template <class Out>
  static __device__ Out finish(Out acc, double) {
    return acc;
  }
};

// The maximum, and how many terms it is tied between.
template <class T>
struct TopTies {
  T top;
  std::int64_t ties;
};

template <class T>
__device__ inline TopTies<T> shuffle(TopTies<T> value, int offset) {
  return {cuda::shuffle(value.top, offset), cuda::shuffle(value.ties, offset)};
}

template <class T>
__device__ bool ties(T a, T b) {
  return a == b || (a != a && b != b);
}

struct MaskFold {
  template <class T>
  using Acc = TopTies<T>;
  template <class T>
  static EDF_HD TopTies<T> start() {
    return {lowest<T>(), 0};
  }
  template <class T>
  static __device__ TopTies<T> lift(T x) {
    return {x, 1};
  }
  template <class T>
  static __device__ TopTies<T> join(TopTies<T> a, TopTies<T> b) {
    if (ties(a.top, b.top)) return {a.top, a.ties + b.ties};
    return ties(Larger{}(a.top, b.top), a.top) ? a : b;
  }
};

template <class Fold>
struct Join {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return Fold::join(a, b);
  }
};

// Some of the axes of a dense tensor, neighbours merged; axis 0 is the innermost.
struct Axes {
  std::int32_t rank;
  std::int64_t dims[max_rank];
  std::int64_t strides[max_rank];

  void push_outer(std::int64_t dim, std::int64_t stride) {
    if (dim == 1) return;
    if (rank > 0 && stride == dims[rank - 1] * strides[rank - 1]) {
      dims[rank - 1] *= dim;
      return;
    }
    dims[rank] = dim;
    strides[rank++] = stride;
  }

  __device__ std::int64_t offset(std::int64_t i) const {
    std::int64_t sum = 0;
    for (int axis = 0; axis < rank - 1; ++axis) {
      const Division d = divide(i, dims[axis]);
      sum += d.remainder * strides[axis];
      i = d.quotient;
    }
    return rank > 0 ? sum + i * strides[rank - 1] : 0;
  }
};

// `kept` walks over the outputs, `reduced` over the terms of one; these are split into chunks.
struct Reduction {
  Axes kept, reduced;
  std::int64_t groups, length, chunks, per_chunk;
  double terms;  // that the output is the mean of: more than `length` in the second stage
};

// What becomes of an accumulator: a partial result, the output, or each term's place in a mask.
enum class Result { partial, output, mask };

template <Result R, class Fold, class Out, class Acc>
__device__ void put(const Reduction& r, Out* out, std::int64_t group, std::int64_t chunk, Acc acc) {
  if constexpr (R == Result::partial) out[group * r.chunks + chunk] = acc;
  if constexpr (R == Result::output) out[group] = Fold::template finish<Out>(acc, r.terms);
}

// Joins terms first, first + step, ... before `end`, in this order. Some are loaded ahead.
template <class Fold, class Acc, class In>
__device__ Acc join_terms(Acc acc, const Axes& reduced, const In* x, std::int64_t first, std::int64_t end,
                          std::int64_t step) {
  constexpr int ahead = 8;
  std::int64_t i = first;
  if (reduced.rank <= 1) {  // nearly always
    const std::int64_t stride = reduced.rank > 0 ? reduced.strides[0] : 0, hop = step * stride;
    const In* at = x + i * stride;
    for (; i + (ahead - 1) * step < end; i += ahead * step, at += ahead * hop) {
      In terms[ahead];
      EDF_UNROLL
      for (int k = 0; k < ahead; ++k) terms[k] = at[k * hop];
      EDF_UNROLL
      for (int k = 0; k < ahead; ++k) acc = Fold::join(acc, Fold::lift(terms[k]));
    }
  }
  for (; i < end; i += step) acc = Fold::join(acc, Fold::lift(x[reduced.offset(i)]));
  return acc;
}

template <class T>
__device__ T mask_of(T x, TopTies<T> acc) {
  return ties(x, acc.top) ? T(1) / static_cast<T>(acc.ties) : T(0);
}

// `Lanes` neighbouring threads share a chunk.
template <class Fold, Result R, int Lanes, class In, class Out, class Acc>
__global__ void __launch_bounds__(block_threads, roomy)
    reduce_runs(Reduction r, const In* x, Out* out, Acc start) {
  const std::int64_t unit = thread_number() / Lanes;
  const Division at = divide(unit, r.chunks);
  const std::int64_t group = at.quotient, first = at.remainder * r.per_chunk;
  const int lane = static_cast<int>(threadIdx.x % Lanes);
  const bool live = group < r.groups;
  const std::int64_t end = !live ? 0 : first + r.per_chunk < r.length ? first + r.per_chunk : r.length;
  const std::int64_t base = live ? r.kept.offset(group) : 0;
  Acc acc = join_terms<Fold>(start, r.reduced, x + base, first + lane, end, Lanes);
  acc = combine<Lanes>(acc, Join<Fold>{});
  if constexpr (R == Result::mask) {
    for (std::int64_t i = lane; i < end; i += Lanes) {
      const std::int64_t place = base + r.reduced.offset(i);
      out[place] = mask_of(x[place], acc);
    }
  } else {
    if (live && lane == 0) put<R, Fold>(r, out, group, at.remainder, acc);
  }
}

// Neighbouring outputs lie side by side in memory: a block takes `width` of them (a power of two) and spreads
// the terms over its rows of threads.
template <class Fold, Result R, class In, class Out, class Acc>
__global__ void __launch_bounds__(block_threads, roomy)
    reduce_columns(Reduction r, const In* x, Out* out, Acc start, int width, std::int64_t tiles) {
  EDF_SHARED(Acc, shared, block_threads);
  const Division at = divide(static_cast<std::int64_t>(blockIdx.x), tiles);
  const int thread = static_cast<int>(threadIdx.x), rows = block_threads / width;
  const int col = thread % width, row = thread / width;
  const std::int64_t group = at.remainder * width + col, first = at.quotient * r.per_chunk;
  const bool live = group < r.groups;
  const std::int64_t end = !live ? 0 : first + r.per_chunk < r.length ? first + r.per_chunk : r.length;
  const std::int64_t base = live ? r.kept.offset(group) : 0;
  Acc acc = join_terms<Fold>(start, r.reduced, x + base, first + row, end, rows);
  shared[thread] = acc;
  for (int half = rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) shared[thread] = Fold::join(shared[thread], shared[thread + half * width]);
  }
  __syncthreads();
  acc = shared[col];
  if constexpr (R == Result::mask) {
    for (std::int64_t i = row; i < end; i += rows) {
      const std::int64_t place = base + r.reduced.offset(i);
      out[place] = mask_of(x[place], acc);
    }
  } else {
    if (live && row == 0) put<R, Fold>(r, out, group, at.quotient, acc);
  }
}

template <class Body>
void visit_lanes(std::int64_t length, const Body& body) {
  if (length <= 16) return body(std::integral_constant<int, 8>{});
  if (length <= 1024) return body(std::integral_constant<int, 32>{});
  body(std::integral_constant<int, 256>{});
}

template <class Fold, Result R, class In, class Out, class Acc>
void reduce_stage(const Launch& l, const Reduction& r, const In* x, Out* out, Acc start) {
  const bool side_by_side = r.kept.rank > 0 && r.kept.strides[0] == 1;
  if (side_by_side) {
    int width = 1;
    while (width < 32 && width < r.kept.dims[0]) width *= 2;
    const std::int64_t tiles = (r.groups + width - 1) / width;
    launch(reduce_columns<Fold, R, In, Out, Acc>, blocks_for(tiles * r.chunks, 1), block_threads, 0, l.stream,
           r, x, out, start, width, tiles);
    return;
  }
  visit_lanes(r.per_chunk, [&](auto lanes) {
    constexpr int L = decltype(lanes)::value;
    launch(reduce_runs<Fold, R, L, In, Out, Acc>, blocks_for(r.groups * r.chunks, block_threads / L),
           block_threads, 0, l.stream, r, x, out, start);
  });
}

Reduction reduction(const View& x, const bool* reduced) {
  Reduction r{};
  r.groups = r.length = r.chunks = 1;
  std::int64_t stride = 1;
  for (int axis = x.rank - 1; axis >= 0; --axis) {
    (reduced[axis] ? r.reduced : r.kept).push_outer(x.dims[axis], stride);
    (reduced[axis] ? r.length : r.groups) *= x.dims[axis];
    stride *= x.dims[axis];
  }
  r.per_chunk = r.length;
  r.terms = static_cast<double>(r.length);
  return r;
}

template <class Fold, class T>
void reduce(const Launch& l, const bool* reduced) {
  using Acc = typename Fold::template Acc<T>;
  Reduction r = reduction(l.in[0], reduced);
  if (r.groups == 0) return;
  const Acc start = Fold::template start<T>();
  const T* x = pointer<const T>(l.in[0]);
  T* out = pointer<T>(l.out[0]);
  r.chunks = l.scratch == nullptr ? 1 : reduce_chunks(r.groups, r.length);
  if (r.chunks <= 1) return reduce_stage<Fold, Result::output>(l, r, x, out, start);
  r.per_chunk = (r.length + r.chunks - 1) / r.chunks;
  Acc* partial = static_cast<Acc*>(l.scratch);
  reduce_stage<Fold, Result::partial>(l, r, x, partial, start);

  Reduction second{};
  second.kept.push_outer(r.groups, r.chunks);
  second.reduced.push_outer(r.chunks, 1);
  second.groups = r.groups;
  second.length = second.per_chunk = r.chunks;
  second.chunks = 1;
  second.terms = r.terms;
  reduce_stage<Fold, Result::output>(l, second, static_cast<const Acc*>(partial), out, start);
}

void mark_axes(const Attrs& attrs, bool* reduced) {
  for (int i = 0; i < attrs.n_ints; ++i) reduced[attrs.ints[i]] = true;
}

struct Identity {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};

template <class Fold>
void reduce_floating(const Launch& l, const bool* reduced) {
  visit_floating(l.out[0].dtype, [&](auto t) { reduce<Fold, decltype(t)>(l, reduced); });
}

}  // namespace

void sum_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  reduce_floating<SumFold>(l, reduced);
}

void mean_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  reduce_floating<MeanFold>(l, reduced);
}

void max_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  visit_numeric(l.out[0].dtype, [&](auto t) { reduce<MaxFold, decltype(t)>(l, reduced); });
}

void max_mask_kernel(const Launch& l) {
  if (l.out[0].size == 0) return;
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  const Reduction r = reduction(l.in[0], reduced);
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    reduce_stage<MaskFold, Result::mask>(l, r, pointer<const T>(l.in[0]), pointer<T>(l.out[0]),
                                         MaskFold::start<T>());
  });
}

void sum_to_kernel(const Launch& l) {
  const View &x = l.in[0], &y = l.out[0];
  bool reduced[max_rank] = {};
  for (int i = 0; i < x.rank; ++i) {
    const int axis = i - (x.rank - y.rank);
    reduced[i] = axis < 0 || (y.dims[axis] == 1 && x.dims[i] != 1);
  }
  reduce_floating<SumFold>(l, reduced);
}

void broadcast_to_kernel(const Launch& l) {
  visit_width(dtype_size(l.out[0].dtype), [&](auto t) {
    using T = decltype(t);
    map<T, T, 1>(l, Identity{}, l.out[0], l.in);
  });
}

}  // namespace edfcore::cuda
