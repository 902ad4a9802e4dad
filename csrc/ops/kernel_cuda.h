// What the *.cu files share, and, for the records, how much scratch their kernels need.
#pragma once

#include <cstdint>
#include <type_traits>

namespace edfcore::cuda {

// Work is split by shape alone, never by the device at hand, so that results are the same on every device.

// Into how many chunks each of `groups` reductions over `length` elements is split.
constexpr std::int64_t reduce_chunks(std::int64_t groups, std::int64_t length) {
  const std::int64_t by_length = length / 1024;
  const std::int64_t by_groups = 32768 / (groups < 32 ? 32 : groups);
  const std::int64_t chunks = by_length < by_groups ? by_length : by_groups;
  return chunks < 1 ? 1 : chunks;
}

// Bytes that sum, mean, max and sum_to need, from the sizes of their input and output.
constexpr std::int64_t reduce_scratch(std::int64_t in_size, std::int64_t out_size) {
  if (out_size < 1) return 0;
  const std::int64_t chunks = reduce_chunks(out_size, in_size / out_size);
  return chunks > 1 ? out_size * chunks * 8 : 0;
}

// Whether scatter_add_rows sorts its index, and into how many tiles it then deals it out.
constexpr bool scatter_sorts(std::int64_t entries, std::int64_t rows) {
  return entries >= 4096 && entries < (std::int64_t{1} << 30) && rows < (std::int64_t{1} << 30);
}
constexpr std::int64_t sort_tiles(std::int64_t entries) {
  const std::int64_t tiles = (entries + 1023) / 1024;
  return tiles < 256 ? tiles : 256;
}

// Bytes that scatter_add_rows needs: counts of digits, then rows and positions twice.
constexpr std::int64_t scatter_scratch(std::int64_t entries, std::int64_t rows) {
  return scatter_sorts(entries, rows) ? (256 * sort_tiles(entries) + 4 * entries) * 4 : 0;
}

// Into how many parts the inner dimension of an (m, k) by (k, n) product is split where its tiles, in all of
// its batch, are too few.
constexpr std::int64_t matmul_splits(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch = 1) {
  const std::int64_t tiles = ((m + 63) / 64) * ((n + 63) / 64) * batch;
  if (tiles < 1 || tiles > 96) return 1;
  const std::int64_t by_tiles = 192 / tiles, by_k = k / 128;
  const std::int64_t splits = by_tiles < by_k ? by_tiles : by_k;
  return splits < 2 ? 1 : splits > 16 ? 16 : splits;
}

// Bytes that matmul and affine need.
constexpr std::int64_t matmul_scratch(std::int64_t m, std::int64_t n, std::int64_t k,
                                      std::int64_t element_size, std::int64_t batch = 1) {
  const std::int64_t splits = matmul_splits(m, n, k, batch);
  return splits > 1 ? splits * batch * m * n * element_size : 0;
}

}  // namespace edfcore::cuda

#ifdef EDF_ISA  // inside a kernel file

#include <string.h>

#include "core/kernel.h"
#include "core/shape.h"
#include "device/launch.h"
#include "ops/math_cuda.h"

#include "ops/elementwise.h"  // after exp_

namespace edfcore::cuda {

inline constexpr int block_threads = 256;
// For __launch_bounds__: one block on a multiprocessor is enough. Without it ptxas may spill to make room for
// more.
inline constexpr int roomy = 1;

template <class T>
T* pointer(const View& view) {
  return static_cast<T*>(view.data);
}

inline dim3 blocks_for(std::int64_t n, std::int64_t per_block) {
  return dim3(static_cast<unsigned>((n + per_block - 1) / per_block));
}

// Calls body(T{}) with the C++ type of a floating dtype; infer has let no other dtype through.
template <class Body>
void visit_floating(DType dtype, const Body& body) {
  if (dtype == DType::f64)
    body(double{});
  else
    body(float{});
}

// The same for float32, float64, int32, int64 and uint8.
template <class Body>
void visit_numeric(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::i32:
      return body(std::int32_t{});
    case DType::i64:
      return body(std::int64_t{});
    case DType::u8:
      return body(std::uint8_t{});
    default:
      return body(float{});
  }
}

// The same for the dtypes of an index.
template <class Body>
void visit_index(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::i64:
      return body(std::int64_t{});
    case DType::u8:
      return body(std::uint8_t{});
    default:
      return body(std::int32_t{});
  }
}

// The same for the unsigned integer as wide as an element: ops that move data need one kernel per width.
template <class Body>
void visit_width(std::int64_t bytes, const Body& body) {
  switch (bytes) {
    case 1:
      return body(std::uint8_t{});
    case 2:
      return body(std::uint16_t{});
    case 8:
      return body(std::uint64_t{});
    default:
      return body(std::uint32_t{});
  }
}

// V elements that are read and written by one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

#if defined(EDFCORE_SIM)
template <class T, int V>
using Raw = Pack<T, V>;
#else  // nvcc splits the copies of some structs
template <class T, int V>
using Raw = std::conditional_t<sizeof(Pack<T, V>) < 8, Pack<T, V>,
                               std::conditional_t<sizeof(Pack<T, V>) == 8, uint2,
                                                  std::conditional_t<sizeof(T) == 8, ulonglong2, uint4> > >;
#endif

template <class T, int V>
__device__ inline Pack<T, V> load_pack(const T* from) {
  const Raw<T, V> raw = *reinterpret_cast<const Raw<T, V>*>(from);
  Pack<T, V> pack;
  memcpy(&pack, &raw, sizeof raw);
  return pack;
}

template <class T, int V>
__device__ inline void store_pack(T* to, const Pack<T, V>& pack) {
  Raw<T, V> raw;
  memcpy(&raw, &pack, sizeof raw);
#if defined(EDFCORE_SIM)
  *reinterpret_cast<Raw<T, V>*>(to) = raw;
#else
  if constexpr (V == 2 && sizeof raw >= 8)
    __stwb(reinterpret_cast<Raw<T, V>*>(to), raw);  // nvcc takes pairs apart again unless told so
  else
    *reinterpret_cast<Raw<T, V>*>(to) = raw;
#endif
}

inline bool aligned(const void* data, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % bytes == 0;
}

__device__ inline std::int64_t thread_number() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

struct Division {
  std::int64_t quotient, remainder;
};

// Both not negative. A 64-bit division costs four times a 32-bit one, and few tensors need it.
__device__ inline Division divide(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) {
    const std::uint32_t q = static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
    return {q, static_cast<std::uint32_t>(a) - q * static_cast<std::uint32_t>(b)};
  }
  const std::int64_t q = a / b;
  return {q, a - q * b};
}

// Where a kernel reports an index of input `input` that is out of range.
struct Reporter {
  Status* status;
  std::int32_t op, input, step;
  const std::int64_t* run;

  // The one that wins the exchange fills the rest; whoever synchronises afterwards sees all of it.
  __device__ void report(std::int64_t row, std::int64_t value, std::int64_t bound) const {
    const std::int32_t code = Status::index_out_of_range, none = Status::ok;
    if (atomicCAS(&status->code, none, code) != none) return;
    status->op = op;
    status->input = input;
    status->step = step;
    if (run != nullptr) status->run = *run;
    status->row = row;
    status->value = value;
    status->bound = bound;
  }
};

inline Reporter reporter(const Launch& l, std::int32_t input) {
  return {l.status, l.op, input, l.step, l.run};
}

struct Checked {
  std::int64_t value;
  bool ok;
};

template <class Index>
__device__ Checked checked(const Index* index, std::int64_t row, std::int64_t bound,
                           const Reporter& reporter) {
  const std::int64_t value = static_cast<std::int64_t>(index[row]);
  const bool ok = 0 <= value && value < bound;
  if (!ok) reporter.report(row, value, bound);
  return {value, ok};
}

// ---- elementwise over operands that broadcast ----

// Where the operands of an output lie, its axes merged wherever all operands allow it; axis 0 is the
// innermost. All are dense, so along axis 0 an operand's stride is 1, or 0 where it is repeated.
template <int N>
struct Broadcast {
  std::int32_t rank;
  std::int64_t dims[max_rank];
  std::int64_t strides[N][max_rank];
};

template <int N>
Broadcast<N> broadcast(const View& out, const View* in) {
  Broadcast<N> b{};
  std::int64_t stride[N];
  for (int n = 0; n < N; ++n) stride[n] = 1;
  for (int axis = out.rank - 1; axis >= 0; --axis) {
    const std::int64_t dim = out.dims[axis];
    if (dim == 1) continue;
    std::int64_t step[N];
    for (int n = 0; n < N; ++n) {
      const int own = axis - out.rank + in[n].rank;
      const std::int64_t own_dim = own < 0 ? 1 : in[n].dims[own];
      step[n] = own_dim == 1 ? 0 : stride[n];
      stride[n] *= own_dim;
    }
    const int last = b.rank - 1;
    bool merge = last >= 0;
    for (int n = 0; merge && n < N; ++n) merge = step[n] == b.strides[n][last] * b.dims[last];
    if (merge) {
      b.dims[last] *= dim;
    } else {
      b.dims[b.rank] = dim;
      for (int n = 0; n < N; ++n) b.strides[n][b.rank] = step[n];
      ++b.rank;
    }
  }
  if (b.rank == 0) {
    b.rank = 1;
    b.dims[0] = 1;
  }
  return b;
}

template <class In, int N>
struct Operands {
  const In* data[N];
};

template <class Out, class In, int N, class F>
__device__ Out apply(const F& f, const In (&x)[N]) {
  if constexpr (N == 1) return f(x[0]);
  if constexpr (N == 2) return f(x[0], x[1]);
  if constexpr (N == 3) return f(x[0], x[1], x[2]);
  if constexpr (N == 4) return f(x[0], x[1], x[2], x[3]);
}

// The first `packs` threads write V elements each, the rest one each.
template <class F, class In, class Out, int N, int V>
__global__ void __launch_bounds__(block_threads)
    broadcast_map(F f, Broadcast<N> b, Operands<In, N> in, Out* out, std::int64_t packs,
                  std::int64_t threads) {
  const std::int64_t thread = thread_number();
  if (thread >= threads) return;
  const std::int64_t first = thread < packs ? thread * V : packs * V + (thread - packs);
  Division d = b.rank > 1 ? divide(first, b.dims[0]) : Division{0, first};
  std::int64_t offset[N];
  EDF_UNROLL
  for (int n = 0; n < N; ++n) offset[n] = d.remainder * b.strides[n][0];
  for (int axis = 1; axis < b.rank; ++axis) {
    d = axis + 1 < b.rank ? divide(d.quotient, b.dims[axis]) : Division{0, d.quotient};
    EDF_UNROLL
    for (int n = 0; n < N; ++n) offset[n] += d.remainder * b.strides[n][axis];
  }
  if (thread >= packs) {
    In x[N];
    EDF_UNROLL
    for (int n = 0; n < N; ++n) x[n] = in.data[n][offset[n]];
    out[first] = apply<Out>(f, x);
    return;
  }
  Pack<In, V> x[N];
  EDF_UNROLL
  for (int n = 0; n < N; ++n) {
    if (b.strides[n][0] != 0) {
      x[n] = load_pack<In, V>(in.data[n] + offset[n]);
    } else {
      const In repeated = in.data[n][offset[n]];
      EDF_UNROLL
      for (int v = 0; v < V; ++v) x[n].v[v] = repeated;
    }
  }
  Pack<Out, V> y;
  EDF_UNROLL
  for (int v = 0; v < V; ++v) {
    In each[N];
    EDF_UNROLL
    for (int n = 0; n < N; ++n) each[n] = x[n].v[v];
    y.v[v] = apply<Out>(f, each);
  }
  store_pack(out + first, y);
}

// out[i] = f(in[0][i], ...), where every operand broadcasts to the shape of `out`. An operand may be `out`
// itself.
template <class In, class Out, int N, class F>
void map(const Launch& launch_args, const F& f, const View& out, const View* in) {
  constexpr int V = 16 / (sizeof(In) > sizeof(Out) ? sizeof(In) : sizeof(Out));
  if (out.size == 0) return;
  const Broadcast<N> b = broadcast<N>(out, in);
  bool wide = aligned(out.data, sizeof(Out) * V) && (b.rank == 1 || b.dims[0] % V == 0);
  Operands<In, N> operands;
  for (int n = 0; n < N; ++n) {
    operands.data[n] = pointer<const In>(in[n]);
    wide = wide && (b.strides[n][0] == 0 || aligned(in[n].data, sizeof(In) * V));
  }
  const std::int64_t packs = wide ? out.size / V : 0, threads = packs + (out.size - packs * V);
  launch(broadcast_map<F, In, Out, N, V>, blocks_for(threads, block_threads), block_threads, 0,
         launch_args.stream, f, b, operands, pointer<Out>(out), packs, threads);
}

}  // namespace edfcore::cuda

#endif  // EDF_ISA
