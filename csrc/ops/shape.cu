// reshape and transpose on a CUDA device: values move by width and are never looked at.
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

namespace {

struct Identity {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};

constexpr int tile = 32, tile_rows = block_threads / tile;

// The output's axes, neighbours merged, innermost first, with the input's strides and the output's own.
struct Permutation {
  std::int32_t rank;
  std::int64_t dims[max_rank], from[max_rank], to[max_rank];
};

Permutation permutation(const View& x, const View& out, const std::int64_t* axes) {
  std::int64_t strides[max_rank], step = 1;
  for (int axis = x.rank - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= x.dims[axis];
  }
  Permutation p{};
  step = 1;
  for (int axis = out.rank - 1; axis >= 0; --axis) {
    const std::int64_t dim = out.dims[axis], from = strides[axes[axis]];
    if (dim == 1) continue;
    if (p.rank > 0 && from == p.from[p.rank - 1] * p.dims[p.rank - 1]) {
      p.dims[p.rank - 1] *= dim;
    } else {
      p.dims[p.rank] = dim;
      p.from[p.rank] = from;
      p.to[p.rank++] = step;
    }
    step *= dim;
  }
  return p;
}

// One thread an element, in the order of the output; its axis 0 is the input's too.
template <class T>
__global__ void __launch_bounds__(block_threads)
    permute_rows(Permutation p, const T* x, T* out, std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  Division d{i, 0};
  std::int64_t from = 0;
  for (int axis = 0; axis < p.rank; ++axis) {
    d = axis + 1 < p.rank ? divide(d.quotient, p.dims[axis]) : Division{0, d.quotient};
    from += d.remainder * p.from[axis];
  }
  out[i] = x[from];
}

// Planes spanned by the output's axis 0 and by axis `across`, along which the input is contiguous: a block
// turns one tile of a plane in shared memory, so that reads and writes are both of whole lines.
template <class T>
__global__ void __launch_bounds__(block_threads)
    permute_tiles(Permutation p, int across, const T* x, T* out, std::int64_t tiles_across,
                  std::int64_t tiles_down) {
  using Row = T[tile + 1];
  EDF_SHARED(Row, shared, tile);
  const Division a = divide(static_cast<std::int64_t>(blockIdx.x), tiles_across);
  Division d = divide(a.quotient, tiles_down);
  const std::int64_t first_across = a.remainder * tile, first = d.remainder * tile;
  for (int axis = 1; axis < p.rank; ++axis) {
    if (axis == across) continue;
    d = divide(d.quotient, p.dims[axis]);
    x += d.remainder * p.from[axis];
    out += d.remainder * p.to[axis];
  }
  const int col = static_cast<int>(threadIdx.x) % tile, row = static_cast<int>(threadIdx.x) / tile;
  EDF_UNROLL
  for (int r = row; r < tile; r += tile_rows)
    if (first_across + col < p.dims[across] && first + r < p.dims[0])
      shared[r][col] = x[first_across + col + (first + r) * p.from[0]];
  __syncthreads();
  EDF_UNROLL
  for (int r = row; r < tile; r += tile_rows)
    if (first_across + r < p.dims[across] && first + col < p.dims[0])
      out[(first_across + r) * p.to[across] + first + col] = shared[col][r];
}

}  // namespace

void reshape_kernel(const Launch& l) {
  if (l.out[0].data == l.in[0].data) return;
  visit_width(dtype_size(l.out[0].dtype), [&](auto t) {
    using T = decltype(t);
    const std::int64_t dims[] = {
        l.out[0].size};  // the same shape on both sides, so that both are one long row
    const View from{l.in[0].data, dims, 1, l.in[0].dtype, dims[0]},
        to{l.out[0].data, dims, 1, l.out[0].dtype, dims[0]};
    map<T, T, 1>(l, Identity{}, to, &from);
  });
}

void transpose_kernel(const Launch& l) {
  const View &x = l.in[0], &out = l.out[0];
  if (out.size == 0) return;
  const Permutation p = permutation(x, out, l.attrs->ints);
  if (p.rank < 2) return reshape_kernel(l);
  int across = 0;
  while (p.from[across] != 1) ++across;
  visit_width(dtype_size(out.dtype), [&](auto t) {
    using T = decltype(t);
    const T* from = pointer<const T>(x);
    T* to = pointer<T>(out);
    if (across == 0) {
      launch(permute_rows<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream, p, from, to,
             out.size);
      return;
    }
    const std::int64_t tiles_across = (p.dims[across] + tile - 1) / tile,
                       tiles_down = (p.dims[0] + tile - 1) / tile;
    const std::int64_t planes = out.size / p.dims[across] / p.dims[0];
    launch(permute_tiles<T>, blocks_for(planes * tiles_across * tiles_down, 1), block_threads, 0, l.stream, p,
           across, from, to, tiles_across, tiles_down);
  });
}

}  // namespace edfcore::cuda
