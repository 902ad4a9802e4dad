// For *.cu: reductions over any axes, for any fold. A fold says what is accumulated over the terms of an
// output; terms are joined in an order that depends on shapes alone.
#pragma once

#include "ops/rows_cuda.h"

namespace edfcore::cuda {

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
  double terms;           // what sums are divided by: more than `length` in the second stage
  double rate;            // of a descent, which is left out after bad data
  const double* numbers;  // whose first is the rate, where not null
  const Status* status;
};

// What becomes of an accumulator: a partial result, the output, a parameter's descent along what would be the
// output, or each term's place in a mask.
enum class Result { partial, output, descent, mask };

template <Result R, class Fold, class Out, class Acc>
__device__ void put(const Reduction& r, Out* out, std::int64_t group, std::int64_t chunk, Acc acc) {
  if constexpr (R == Result::partial) out[group * r.chunks + chunk] = acc;
  if constexpr (R == Result::output) out[group] = Fold::template finish<Out>(acc, r.terms);
  if constexpr (R == Result::descent)
    if (r.status->code == Status::ok)
      out[group] -= static_cast<Out>(r.numbers == nullptr ? r.rate : r.numbers[0]) *
                    Fold::template finish<Out>(acc, r.terms);
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

// Where a thread stands that works on outputs which lie side by side in memory: a block takes `width` of them
// (a power of two) and spreads the terms over its rows of threads.
struct ColumnPlace {
  std::int64_t group, chunk, first, end, base;
  int row, rows, col;
  bool live;

  __device__ ColumnPlace(const Reduction& r, int width, std::int64_t tile, std::int64_t tiles) {
    const Division at = divide(tile, tiles);
    const int thread = static_cast<int>(threadIdx.x);
    rows = block_threads / width;
    col = thread % width;
    row = thread / width;
    group = at.remainder * width + col;
    chunk = at.quotient;
    live = group < r.groups;
    first = chunk * r.per_chunk;
    end = !live ? 0 : first + r.per_chunk < r.length ? first + r.per_chunk : r.length;
    base = live ? r.kept.offset(group) : 0;
  }
};

// What the block accumulates of a thread's column. All its threads come here.
template <class Fold, class In, class Acc>
__device__ Acc join_column(const Reduction& r, const ColumnPlace& p, const In* x, Acc start, int width,
                           Acc* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = join_terms<Fold>(start, r.reduced, x + p.base, p.first + p.row, p.end, p.rows);
  for (int half = p.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (p.row < half) shared[thread] = Fold::join(shared[thread], shared[thread + half * width]);
  }
  __syncthreads();
  return shared[p.col];
}

template <class Fold, Result R, class In, class Out, class Acc>
__global__ void __launch_bounds__(block_threads, roomy)
    reduce_columns(Reduction r, const In* x, Out* out, Acc start, int width, std::int64_t tiles) {
  EDF_SHARED(Acc, shared, block_threads);
  const ColumnPlace p(r, width, static_cast<std::int64_t>(blockIdx.x), tiles);
  const Acc acc = join_column<Fold>(r, p, x, start, width, shared);
  if constexpr (R == Result::mask) {
    for (std::int64_t i = p.row; i < p.end; i += p.rows) {
      const std::int64_t place = p.base + r.reduced.offset(i);
      out[place] = mask_of(x[place], acc);
    }
  } else {
    if (p.live && p.row == 0) put<R, Fold>(r, out, p.group, p.chunk, acc);
  }
}

// How many outputs side by side a block takes.
inline int column_width(const Reduction& r) {
  int width = 1;
  while (width < 32 && width < r.kept.dims[0]) width *= 2;
  return width;
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
    const int width = column_width(r);
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

inline Reduction reduction(const View& x, const bool* reduced) {
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

template <class Fold, class T, Result Last = Result::output>
void reduce(const Launch& l, const View& terms, const bool* reduced, double terms_less = 0) {
  using Acc = typename Fold::template Acc<T>;
  Reduction r = reduction(terms, reduced);
  if (r.groups == 0) return;
  r.terms = r.terms > terms_less ? r.terms - terms_less : 0;
  r.rate = l.attrs->scalar;
  r.numbers = l.numbers;
  r.status = l.status;
  const Acc start = Fold::template start<T>();
  const T* x = pointer<const T>(terms);
  T* out = pointer<T>(l.out[0]);
  r.chunks = l.scratch == nullptr ? 1 : reduce_chunks(r.groups, r.length);
  if (r.chunks <= 1) return reduce_stage<Fold, Last>(l, r, x, out, start);
  r.per_chunk = (r.length + r.chunks - 1) / r.chunks;
  Acc* partial = static_cast<Acc*>(l.scratch);
  reduce_stage<Fold, Result::partial>(l, r, x, partial, start);

  Reduction second = r;
  second.kept = second.reduced = {};
  second.kept.push_outer(r.groups, r.chunks);
  second.reduced.push_outer(r.chunks, 1);
  second.length = second.per_chunk = r.chunks;
  second.chunks = 1;
  reduce_stage<Fold, Last>(l, second, static_cast<const Acc*>(partial), out, start);
}

}  // namespace edfcore::cuda
