// For *.cu: rows that a group of threads keeps while it works on them. Of rows of T, the threads compute in
// Computed<T>.
#pragma once

#include <initializer_list>

#include "ops/group_cuda.h"
#include "ops/half_cuda.h"

namespace edfcore::cuda {

// ---- how rows are spread over threads ----

// Over how many threads a row is spread, how many elements each keeps in registers, and how many of these are
// neighbours. N = 0: the row is longer than registers are many; see `Kept`.
template <int Lanes, int N, int V>
struct RowShape {
  static constexpr int lanes = Lanes, n = N, v = V;
  static constexpr int threads = Lanes > 32 ? Lanes : block_threads;
  static constexpr int per_block = threads / Lanes;
  static constexpr int step = Lanes * V;  // columns between one pack of a thread and its next
  using Count = std::conditional_t<(N > 0), int, std::int64_t>;  // of columns
};

// For __launch_bounds__, blocks on a multiprocessor: enough loads are in flight with 1024 threads of floats,
// or 512 of doubles.
template <class Shape, class T>
constexpr int row_blocks = (sizeof(Computed<T>) == 4 ? 1024 : 512) / Shape::threads;

struct Rows {
  std::int64_t rows, cols;
  bool packed;  // a thread has packs of neighbours, else single columns
  bool wide;    // and packs are moved by one instruction: they are whole, and the memory is aligned
  bool is_bfloat;
  int kept;  // of a long row, how many packs of each thread find room in shared memory
};

// Those columns of its row that are a thread's: first + r * stride + q * step, with r < V. It is so by shape
// alone, so that sums are, too.
template <class Shape>
struct Part {
  using Count = typename Shape::Count;
  std::int64_t row;
  int lane, stride;
  Count first, cols;
  bool live, wide, is_bfloat;

  // The number q * V + r of a column among this thread's, or -1.
  __device__ Count number_of(std::int64_t col) const {
    if (col < 0 || col >= cols) return -1;
    constexpr int lanes = Shape::lanes, v = Shape::v;
    const Count c = static_cast<Count>(col), unit = stride == 1 ? c / v : c;
    if (unit % lanes != lane) return -1;
    return stride == 1 ? unit / lanes * v + c % v : unit / lanes;
  }
};

template <class Shape>
__device__ inline Part<Shape> part_of(const Rows& r) {
  Part<Shape> p;
  p.row = static_cast<std::int64_t>(blockIdx.x) * Shape::per_block + threadIdx.x / Shape::lanes;
  p.lane = static_cast<int>(threadIdx.x % Shape::lanes);
  p.live = p.row < r.rows;
  p.cols = p.live ? static_cast<typename Shape::Count>(r.cols) : 0;  // all reach the barriers
  p.wide = r.wide;
  p.is_bfloat = r.is_bfloat;
  p.stride = r.packed ? 1 : Shape::lanes;
  p.first = r.packed ? p.lane * Shape::v : p.lane;
  return p;
}

// Packs q .. q + N of a thread, as they are stored. What lies behind the row's end is `missing`.
template <class Shape, bool Whole, int N, class T>
__device__ inline void load_packs(Pack<T, Shape::v> (&to)[N], const T* x, const Part<Shape>& p,
                                  typename Shape::Count q, T missing) {
  const auto first = p.first + q * Shape::step;
  x += first;
  EDF_UNROLL
  for (int i = 0; i < N; ++i) {
    EDF_UNROLL
    for (int r = 0; r < Shape::v; ++r) {
      to[i].v[r] = missing;
      if constexpr (!Whole)
        if (first + i * Shape::step + r * p.stride < p.cols) to[i].v[r] = x[i * Shape::step + r * p.stride];
    }
    if constexpr (Whole)
      if (first + i * Shape::step < p.cols) to[i] = load_pack<T, Shape::v>(x + i * Shape::step);
  }
}

template <class Shape, bool Whole, int N, class T, class Value>
__device__ inline void store_packs(T* y, const Part<Shape>& p, typename Shape::Count q, const Value& value) {
  constexpr int V = Shape::v;
  const auto first = p.first + q * Shape::step;
  y += first;
  EDF_UNROLL
  for (int i = 0; i < N; i += V) {
    if constexpr (Whole) {
      if (first + i * Shape::lanes < p.cols)
        store_pack(y + i * Shape::lanes,
                   rounded_pack<T, V>([&](int r) { return value(i + r); }, p.is_bfloat));
    } else {
      EDF_UNROLL
      for (int r = 0; r < V; ++r)
        if (first + i * Shape::lanes + r * p.stride < p.cols)
          y[i * Shape::lanes + r * p.stride] = rounded_to<T>(value(i + r), p.is_bfloat);
    }
  }
}

template <class Shape, int N, class T>
__device__ inline void load_stored(Pack<T, Shape::v> (&to)[N], const T* x, const Part<Shape>& p,
                                   typename Shape::Count q, Computed<T> missing) {
  const T none = rounded_to<T>(missing, p.is_bfloat);
  if (p.wide)
    load_packs<Shape, true>(to, x, p, q, none);
  else
    load_packs<Shape, false>(to, x, p, q, none);
}

template <class Shape, int N, class T>
__device__ inline void load_row(Computed<T> (&to)[N], const T* x, const Part<Shape>& p,
                                typename Shape::Count q, Computed<T> missing) {
  Pack<T, Shape::v> packs[N / Shape::v];
  load_stored(packs, x, p, q, missing);
  EDF_UNROLL
  for (int i = 0; i < N / Shape::v; ++i) widen(to + i * Shape::v, packs[i], p.is_bfloat);
}

// y = value(i) for i < N, counted from pack q.
template <class Shape, int N, class T, class Value>
__device__ inline void store_row(T* y, const Part<Shape>& p, typename Shape::Count q, const Value& value) {
  if (p.wide)
    store_packs<Shape, true, N>(y, p, q, value);
  else
    store_packs<Shape, false, N>(y, p, q, value);
}

// ---- long rows: read in spans of some packs; the first ones stay in shared memory, the others are read
// again, last first, while they are still in the cache ----

// Packs of a span, for a kernel that keeps `Arrays` rows: of halves fewer, since in registers they are
// floats.
template <class Shape, int Arrays>
constexpr int span_packs = (Shape::v > 4 ? 2 : 4) / Arrays;

template <class Shape, int Arrays>
__device__ inline std::int64_t spans_of(const Part<Shape>& p) {
  constexpr int span = Shape::step * span_packs<Shape, Arrays>;
  return (p.cols + span - 1) / span;
}

// The packs of array `array` that a block keeps, as they are stored: whole spans. A thread reads only what it
// wrote, so there is no barrier.
template <class Shape, class T>
struct Kept {
  Raw<T, Shape::v>* own;
  int packs;

  __device__ Kept(const Rows& r, const Part<Shape>& p, int array)
      : own(dynamic_shared<Raw<T, Shape::v>>() + p.lane + array * r.kept * Shape::lanes), packs(r.kept) {}

  // Loads a span, and keeps it if there is room.
  template <int N>
  __device__ void load(Computed<T> (&to)[N], const T* x, const Part<Shape>& p, std::int64_t q,
                       Computed<T> missing) const {
    Pack<T, Shape::v> span[N / Shape::v];
    load_stored(span, x, p, q, missing);
    EDF_UNROLL
    for (int i = 0; i < N / Shape::v; ++i) widen(to + i * Shape::v, span[i], p.is_bfloat);
    if (q >= packs) return;
    EDF_UNROLL
    for (int i = 0; i < N / Shape::v; ++i) {
      Raw<T, Shape::v> raw;
      memcpy(&raw, span + i, sizeof raw);
      own[(q + i) * Shape::lanes] = raw;
    }
  }

  // The same span once more.
  template <int N>
  __device__ void get(Computed<T> (&to)[N], const T* x, const Part<Shape>& p, std::int64_t q,
                      Computed<T> missing) const {
    if (q >= packs) {
      load_row(to, x, p, q, missing);
      return;
    }
    EDF_UNROLL
    for (int i = 0; i < N / Shape::v; ++i) {
      const Raw<T, Shape::v> raw = own[(q + i) * Shape::lanes];
      Pack<T, Shape::v> pack;
      memcpy(&pack, &raw, sizeof raw);
      widen(to + i * Shape::v, pack, p.is_bfloat);
    }
  }
};

// Bytes of shared memory that a block may have on the device at hand.
inline std::int64_t shared_limit() {
#if defined(EDFCORE_SIM)
  return 100 << 10;  // so that tests meet rows that find no room in it
#else
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return 0;
  return bytes;
#endif
}

// Calls kernel(args..., rows) with one group of threads for each row. It keeps `Arrays` rows of T.
template <class Shape, int Arrays, class T, class... Params, class... Args>
void launch_rows(const Launch& l, void (*kernel)(Params...), Rows rows, Args... args) {
  std::int64_t shared = 0;
  if constexpr (Shape::n == 0) {
    constexpr std::int64_t span = std::int64_t{Shape::step} * span_packs<Shape, Arrays>,
                           bytes = span * Arrays * static_cast<std::int64_t>(sizeof(T)),
                           combining = 2048;  // of which half is left over
    const std::int64_t wanted = (rows.cols + span - 1) / span, room = (shared_limit() - combining) / bytes,
                       spans = wanted < room ? wanted
                               : room > 0    ? room
                                             : 0;
    shared = spans * bytes;
    rows.kept = static_cast<int>(spans * span_packs<Shape, Arrays>);
    if (shared > 0 && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(shared + combining / 2)) != cudaSuccess)
      shared = rows.kept = 0;
  }
  launch(kernel, blocks_for(rows.rows, Shape::per_block), Shape::threads, static_cast<std::size_t>(shared),
         l.stream, args..., rows);
}

inline std::int64_t row_size_of(const View& x) { return x.dims[x.rank - 1]; }

// There may be rows without columns.
template <class Shape, class T>
Rows rows_of(std::int64_t rows, const View& x, std::initializer_list<const void*> data) {
  Rows r{};
  r.rows = rows;
  r.cols = row_size_of(x);
  r.wide = r.cols % Shape::v == 0;
  r.is_bfloat = x.dtype == DType::bf16;
  constexpr int bytes = Shape::n * static_cast<int>(sizeof(Computed<T>));
  r.packed = r.wide || (bytes > 0 && bytes <= 16);  // as the rows of a product lie that ends with their loss
  for (const void* each : data) r.wide = r.wide && aligned(each, sizeof(T) * Shape::v);
  return r;
}

template <int Lanes, int N, class T>
using RowShapeOf = RowShape<Lanes, N, (N > 0 && N * sizeof(T) < 16 ? N : 16 / static_cast<int>(sizeof(T)))>;

// For a kernel that keeps `Arrays` rows.
template <class T, int Arrays, class Body>
void visit_row_shape(std::int64_t cols, const Body& body) {
  constexpr int n = 128 / (Arrays * static_cast<int>(sizeof(Computed<T>)));
  if (cols <= 16) return body(RowShapeOf<8, 2, T>{});
  if (cols <= 2 * n) return body(RowShapeOf<8, n / 4, T>{});
  if (cols <= 8 * n) return body(RowShapeOf<16, n / 2, T>{});
  if (cols <= 16 * n) return body(RowShapeOf<16, n, T>{});
  if (cols <= 32 * n) return body(RowShapeOf<32, n, T>{});
  if (cols <= 64 * n) return body(RowShapeOf<128, n / 2, T>{});
  if (cols <= 128 * n) return body(RowShapeOf<128, n, T>{});
  if (cols <= 256 * n) return body(RowShapeOf<256, n, T>{});
  if (cols <= 512 * n) return body(RowShapeOf<512, n, T>{});
  body(RowShapeOf<(sizeof(Computed<T>) == 4 ? 1024 : 512), 0, T>{});
}

// ---- a row's maximum, and the sum of exp(x - max) over it ----

template <class T>
struct MaxSum {
  T max, sum;
};

template <class T>
__device__ inline MaxSum<T> shuffle(MaxSum<T> value, int offset) {
  return {shuffle(value.max, offset), shuffle(value.sum, offset)};
}

// What is taken from exponents; nothing while all are -inf, which then count 0.
template <class T>
__device__ inline T shift_of(T max) {
  return max == T(-INFINITY) ? T(0) : max;
}

struct MergeMaxSum {
  template <class T>
  __device__ MaxSum<T> operator()(MaxSum<T> a, MaxSum<T> b) const {
    const T max = larger_number(a.max, b.max), shift = shift_of(max);
    return {max, a.sum * exp_(a.max - shift) + b.sum * exp_(b.max - shift)};
  }
};

// Of a row that `Lanes` threads hold, N elements each: leaves in `x` exp(x - max), or x - max.
template <int Lanes, bool Exp, int N, class T>
__device__ MaxSum<T> max_sum_of(T (&x)[N]) {
  T max = x[0];
  EDF_UNROLL
  for (int i = 1; i < N; ++i) max = larger_number(max, x[i]);
  max = combine<Lanes>(max, LargerNumber{});
  T sum[2] = {T(0), T(0)};
  EDF_UNROLL
  for (int i = 0; i < N; ++i) {
    const T shifted = x[i] - max, e = exp_(shifted);
    x[i] = Exp ? e : shifted;
    sum[i % 2] += e;
  }
  return {max, combine<Lanes>(sum[0] + sum[1], Plus{})};
}

// The same of a row that is to be read into `kept` first.
template <class Shape, bool Exp, class T>
__device__ MaxSum<Computed<T>> max_sum(Computed<T> (&kept)[Shape::n], const T* x, const Part<Shape>& p) {
  load_row(kept, x, p, 0, Computed<T>(-INFINITY));
  return max_sum_of<Shape::lanes, Exp>(kept);
}

// Of a long row, in one pass; `load(span, q)` reads what lies from pack q on.
template <class T, class Shape, class Load>
__device__ MaxSum<T> max_sum_online(const Part<Shape>& p, const Load& load) {
  constexpr int packs = span_packs<Shape, 1>;
  MaxSum<T> own{T(-INFINITY), T(0)};
  const std::int64_t end = spans_of<Shape, 1>(p) * packs;
  for (std::int64_t q = 0; q < end; q += packs) {
    T span[packs * Shape::v];
    load(span, q);
    T max = own.max;
    EDF_UNROLL
    for (const T each : span) max = larger_number(max, each);
    const T shift = shift_of(max);
    own.sum *= exp_(own.max - shift);
    EDF_UNROLL
    for (const T each : span) own.sum += exp_(each - shift);
    own.max = max;
  }
  return combine<Shape::lanes>(own, MergeMaxSum{});
}

}  // namespace edfcore::cuda
