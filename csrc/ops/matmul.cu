// matmul and affine on a CUDA device: register tiles over tiles in shared memory, for any chip, shape and
// layout. Every element is one chain of multiply-adds in the order of k, or a sum of such chains where k is
// split.
#include "ops/matmul_cuda.h"

namespace edfcore::cuda {

namespace {

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// A block computes M by N elements of the result, K of the inner dimension at a time; a thread TM by TN of
// them.
template <int M_, int N_, int K_, int TM_, int TN_, int Blocks>
struct Tiling {
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
  static constexpr int blocks = 1;  // there the large tiling spills with 128 registers
#else
  static constexpr int blocks = Blocks;  // that are to fit on a multiprocessor by their registers
#endif
  static constexpr int M = M_, N = N_, K = K_, TM = TM_, TN = TN_;
  static constexpr int at_once = TM * TN * Blocks < 128 ? K : 2;  // steps; more would spill registers
  static constexpr int threads_n = N / TN;
  static_assert(M / TM * threads_n == block_threads);
};

// A tile of an operand, on its way from global memory to shared memory by way of registers. `Side` is its
// extent along m or n. `Along` says that the operand's rows run along k; else they run along m or n.
template <class T, int Side, int K, bool Along>
struct Loader {
  static constexpr int row = Along ? K : Side;  // extent of the tile along the operand's rows
  static constexpr int elements = Side * K / block_threads;
  static constexpr int V = elements % 4 == 0 ? 4 : elements;  // consecutive elements that a thread reads
  static constexpr int reads = elements / V;
  static constexpr int pitch =
      Side + 4;  // of the tile in shared memory; a multiple of a pack, and no power of two
  static_assert(elements * block_threads == Side * K && row % V == 0);

  static constexpr int outer_step = block_threads * V / row;  // from one read of a thread to its next
  static_assert(block_threads * V % row == 0);

  T held[reads][V];
  TileWalk<T, Side, K, Along> walk;

  __device__ Loader(const T* x, std::int64_t side0, std::int64_t sides, std::int64_t k0, std::int64_t stride)
      : walk(x, side0, sides, k0, stride, static_cast<int>(threadIdx.x) * V / row,
             static_cast<int>(threadIdx.x) * V % row, outer_step) {}

  // Reads the next tile, of whose extent along k `depth` lie in the operand; what lies outside is 0.
  __device__ void read(int depth, bool wide) {
    EDF_UNROLL
    for (int r = 0; r < reads; ++r) {
      const int left = walk.left(depth, r * outer_step);
      const T* place = walk.from + r * walk.step_outer;
      if (V == 4 && wide && left >= V) {
        constexpr int pack = 16 / static_cast<int>(sizeof(T)) < V ? 16 / static_cast<int>(sizeof(T)) : V;
        EDF_UNROLL
        for (int v = 0; v < V; v += pack) {
          const Pack<T, pack> p = load_pack<T, pack>(place + v);
          EDF_UNROLL
          for (int i = 0; i < pack; ++i) held[r][v + i] = p.v[i];
        }
      } else {
        EDF_UNROLL
        for (int v = 0; v < V; ++v) held[r][v] = v < left ? place[v] : T(0);
      }
    }
    walk.from += walk.step_tile;
  }

  // In shared memory the tile's rows run along m or n, for both layouts.
  __device__ void write(T* shared) const {
    EDF_UNROLL
    for (int r = 0; r < reads; ++r) {
      const int first = (static_cast<int>(threadIdx.x) + r * block_threads) * V;
      const int outer = first / row, inner = first % row;
      EDF_UNROLL
      for (int v = 0; v < V; ++v) {
        if (Along)
          shared[(inner + v) * pitch + outer] = held[r][v];
        else
          shared[outer * pitch + inner + v] = held[r][v];
      }
    }
  }
};

template <int Most>
__device__ int at_most(std::int64_t n) {
  return n < Most ? static_cast<int>(n) : Most;
}

// The elements of a thread along one side come in packs of four (or all of them, if fewer), a stride apart,
// so that neighbouring threads read neighbouring shared memory.
template <int Count, int Threads>
__device__ constexpr int place_of(int thread, int i) {
  constexpr int pack = Count < 4 ? Count : 4;
  return i / pack * (Threads * pack) + thread * pack + i % pack;
}

template <class Tile, bool TransA, bool TransB, class T>
__global__ void __launch_bounds__(block_threads, Tile::blocks) matmul_tiles(Problem<T> p) {
  using LoadA = Loader<T, Tile::M, Tile::K, !TransA>;
  using LoadB = Loader<T, Tile::N, Tile::K, TransB>;
  constexpr int size_a = Tile::K * LoadA::pitch, size_b = Tile::K * LoadB::pitch;
  EDF_SHARED(T, shared_a, 2 * size_a);
  EDF_SHARED(T, shared_b, 2 * size_b);
  if constexpr (!TransB) {
    const std::int64_t behind = static_cast<std::int64_t>(blockIdx.x) - p.tiles;
    if (behind >= 0) {
      if (blockIdx.y == 0 && blockIdx.z == 0 && p.first_of_batch == 0) p.columns.run(p.b, behind);
      return;
    }
  }
  constexpr int threads_m = block_threads / Tile::threads_n;
  const int thread_m = static_cast<int>(threadIdx.x) / Tile::threads_n;
  const int thread_n = static_cast<int>(threadIdx.x) % Tile::threads_n;
  const BlockPlace<Tile> place(p);
  const std::int64_t m0 = place.m0, n0 = place.n0, k_begin = place.k_begin, k_end = place.k_end,
                     nth = place.nth;
  LoadA a(p.a + nth * p.step_a, m0, p.m, k_begin, TransA ? p.m : p.k);
  LoadB b(p.b + nth * p.step_b, n0, p.n, k_begin, TransB ? p.k : p.n);
  T acc[Tile::TM][Tile::TN];
  EDF_UNROLL
  for (int i = 0; i < Tile::TM; ++i) {
    EDF_UNROLL
    for (int j = 0; j < Tile::TN; ++j) acc[i][j] = T(0);
  }

  std::int64_t left = k_end - k_begin;
  a.read(at_most<Tile::K>(left), p.wide_a);
  b.read(at_most<Tile::K>(left), p.wide_b);
  int buffer = 0;
  for (; left > 0; left -= Tile::K) {
    T* tile_a = shared_a + buffer * size_a;
    T* tile_b = shared_b + buffer * size_b;
    a.write(tile_a);
    b.write(tile_b);
    __syncthreads();  // one is enough: the next tile goes to the other buffer
    if (left > Tile::K) {
      a.read(at_most<Tile::K>(left - Tile::K), p.wide_a);
      b.read(at_most<Tile::K>(left - Tile::K), p.wide_b);
    }
    EDF_UNROLL_BY(Tile::at_once)
    for (int k = 0; k < Tile::K; ++k) {
      T row[Tile::TM], col[Tile::TN];
      EDF_UNROLL
      for (int i = 0; i < Tile::TM; ++i)
        row[i] = tile_a[k * LoadA::pitch + place_of<Tile::TM, threads_m>(thread_m, i)];
      EDF_UNROLL
      for (int j = 0; j < Tile::TN; ++j)
        col[j] = tile_b[k * LoadB::pitch + place_of<Tile::TN, Tile::threads_n>(thread_n, j)];
      EDF_UNROLL
      for (int i = 0; i < Tile::TM; ++i) {
        EDF_UNROLL
        for (int j = 0; j < Tile::TN; ++j) acc[i][j] = multiply_add(row[i], col[j], acc[i][j]);
      }
    }
    buffer ^= 1;
  }

  const T* plus = p.plus == nullptr ? nullptr : p.plus + nth * p.m * p.plus_step;
  if (p.end.kind != Formula::none) {
    EDF_UNROLL_BY(1)
    for (int i = 0; i < Tile::TM; ++i) {  // whose turn it is stands in the first row
      const std::int64_t row = m0 + place_of<Tile::TM, threads_m>(thread_m, i);
      const auto column = [&](int j) {
        const std::int64_t col = n0 + place_of<Tile::TN, Tile::threads_n>(thread_n, j);
        return row < p.m && col < p.n ? col : -1;
      };
      if (plus != nullptr) {
        EDF_UNROLL
        for (int j = 0; j < Tile::TN; ++j)
          if (const std::int64_t col = column(j); col >= 0) acc[0][j] += plus[row * p.plus_step + col];
      }
      if constexpr (Tile::N == ending_columns)
        if (p.end.of_rows())
          finish_row(p.end, p.c, acc[0], nth * p.m + row, row < p.m, thread_n * row_pack,
                     static_cast<int>(p.n));
      if (Tile::N != ending_columns || !p.end.of_rows())
        finish(p.end, p.c, acc[0], [&](int j) {
          const std::int64_t col = column(j);
          return col < 0 ? col : (nth * p.m + row) * p.n + col;
        });
      EDF_UNROLL
      for (int next = 1; next < Tile::TM; ++next) {
        EDF_UNROLL
        for (int j = 0; j < Tile::TN; ++j) acc[next - 1][j] = acc[next][j];
      }
    }
    return;
  }
  T* c = p.c + (static_cast<std::int64_t>(blockIdx.y) * p.batch + nth) * p.m * p.n;
  EDF_UNROLL
  for (int i = 0; i < Tile::TM; ++i) {
    const std::int64_t row = m0 + place_of<Tile::TM, threads_m>(thread_m, i);
    EDF_UNROLL
    for (int j = 0; j < Tile::TN; ++j) {
      const std::int64_t col = n0 + place_of<Tile::TN, Tile::threads_n>(thread_n, j);
      if (row < p.m && col < p.n)
        c[row * p.n + col] = plus == nullptr ? acc[i][j] : acc[i][j] + plus[row * p.plus_step + col];
    }
  }
}

// Element i of the product from the splits of k, in their order.
template <class T>
__device__ auto sum_of_parts(const Problem<T>& p, std::int64_t i, std::int64_t size, int splits) {
  auto sum = p.parts[i];
  for (int s = 1; s < splits; ++s) sum += p.parts[s * size + i];
  return sum;
}

template <class T>
__global__ void __launch_bounds__(block_threads) sum_splits(Problem<T> p, std::int64_t size, int splits) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  auto sum = sum_of_parts(p, i, size, splits);
  if (p.plus != nullptr)
    sum += static_cast<decltype(sum)>(p.plus[p.plus_step == 0 ? divide(i, p.n).remainder : i]);
  T x[1] = {static_cast<T>(sum)};
  if constexpr (sizeof(T) > 2)
    if (p.end.kind != Formula::none) return finish(p.end, p.c, x, [&](int) { return i; });
  p.c[i] = x[0];
}

// The same, where rows end with a loss.
template <class T>
__global__ void __launch_bounds__(block_threads) sum_split_rows(Problem<T> p, std::int64_t size, int splits) {
  const std::int64_t row = thread_number() / row_lanes;
  const int first = static_cast<int>(threadIdx.x) % row_lanes * row_pack, cols = static_cast<int>(p.n);
  const bool live = row * cols < size;
  T x[row_pack];
  EDF_UNROLL
  for (int j = 0; j < row_pack; ++j) {
    x[j] = T(0);
    if (!live || first + j >= cols) continue;
    const std::int64_t i = row * cols + first + j;
    x[j] = sum_of_parts(p, i, size, splits);
    if (p.plus != nullptr) x[j] += p.plus[p.plus_step == 0 ? first + j : i];
  }
  finish_row(p.end, p.c, x, row, live, first, cols);
}

using Large = Tiling<128, 128, 8, 8, 8, 2>;
using Medium = Tiling<64, 64, 16, 4, 4, 1>;
using Tall = Tiling<128, ending_columns, 16, 4, row_pack, 2>;  // few columns: classes, heads
using Flat = Tiling<16, 128, 16, 2, 4, 1>;                     // few rows: small batches
static_assert(Tall::threads_n == row_lanes);

template <class T, class Body>
void visit_tiling(MatmulKernel kernel, const Body& body) {
  if (kernel == MatmulKernel::tall) return body(Tall{});
  if (kernel == MatmulKernel::flat) return body(Flat{});
  if constexpr (sizeof(T) == 4) {
    if (kernel == MatmulKernel::large) return body(Large{});
  }
  body(Medium{});
}

// Where the product's own kernel does not do it.
template <class T>
__global__ void __launch_bounds__(block_threads) sum_columns(ColumnSums<T> sums, const T* x) {
  sums.run(x, static_cast<std::int64_t>(blockIdx.x));
}

template <class Tile, class T>
void launch_tiles(const Launch& l, Problem<T> p, bool trans_a, bool trans_b, std::int64_t splits) {
  p.tiles_n = (p.n + Tile::N - 1) / Tile::N;
  if (p.parts != nullptr) {
    p.c = p.parts;  // one pointer less in the kernel
    p.plus = nullptr;
    p.end = {};
  }
  p.tiles = (p.m + Tile::M - 1) / Tile::M * p.tiles_n;
  const auto blocks = static_cast<unsigned>(p.tiles + p.columns.blocks);
  const auto run = [&](auto kernel) {
    for_batches(p, [&](const Problem<T>& some, unsigned batch) {
      launch(kernel, dim3(blocks, static_cast<unsigned>(splits), batch), block_threads, 0, l.stream, some);
    });
  };
  if (trans_a)
    trans_b ? run(matmul_tiles<Tile, true, true, T>) : run(matmul_tiles<Tile, true, false, T>);
  else
    trans_b ? run(matmul_tiles<Tile, false, true, T>) : run(matmul_tiles<Tile, false, false, T>);
}

template <class T>
void product(const Launch& l, const View* in, bool trans_a, bool trans_b, const T* plus, bool whole,
             const End<T>& end = {}) {
  const View &a = in[0], &b = in[1], &c = l.out[0];  // of which only the shape may be there
  const auto columns_apart = [&] {
    if constexpr (sizeof(T) > 2)
      if (const ColumnSums<T> sums = column_sums<T>(l); sums.blocks > 0)
        launch(sum_columns<T>, blocks_for(sums.blocks, 1), block_threads, 0, l.stream, sums,
               pointer<const T>(b));
  };
  if (c.size == 0) return columns_apart();
  Problem<T> p{};
  p.m = c.dims[c.rank - 2];
  p.n = c.dims[c.rank - 1];
  p.k = a.dims[a.rank - (trans_a ? 2 : 1)];
  p.batch = c.size / (p.m * p.n);
  if (b.rank == 2 && !trans_a) {  // the rows of the batch are those of one matrix
    p.m *= p.batch;
    p.batch = 1;
  }
  p.step_a = a.rank == 2 ? 0 : p.m * p.k;
  p.step_b = b.rank == 2 ? 0 : p.k * p.n;
  p.a = pointer<const T>(a);
  p.b = pointer<const T>(b);
  constexpr std::int64_t pack = sizeof(T) == 2 ? 8 : 4;
  p.wide_a = aligned(a.data, 16) && a.dims[a.rank - 1] % pack == 0;
  p.wide_b = aligned(b.data, 16) && b.dims[b.rank - 1] % pack == 0;
  p.c = result_of<T>(l);
  p.pairs = p.n % 2 == 0 && aligned(p.c, 2 * sizeof(T)) && aligned(plus, 2 * sizeof(T));
  // k is split where scratch for the parts was asked for.
  using Part = std::remove_pointer_t<decltype(p.parts)>;
  const Float32Matmul how = float32_matmul();
  const bool wanted = sizeof(T) == 2 || (sizeof(T) == 4 && how != Float32Matmul::exact);
  const MatmulKernel kernel = choose_matmul(sizeof(T), wanted && has_tensor_cores(), p.m, p.n, p.k, p.batch);
  const bool whole_k = l.scratch == nullptr || kernel == MatmulKernel::simple;
  const std::int64_t splits = whole_k ? 1 : matmul_splits(p.m, p.n, p.k, p.batch);
  p.parts = splits > 1 ? static_cast<Part*>(l.scratch) : nullptr;
  p.plus = plus;
  p.plus_step = whole ? p.n : 0;
  p.end = end;
  p.k_per_split = (p.k + splits - 1) / splits;
  p.k_per_split = (p.k_per_split + 15) / 16 * 16;  // whole tiles, and packs that stay aligned
  if constexpr (sizeof(T) < 8)
    if (!by_multiply_adds(kernel)) {
      tensor_product(l, p, trans_a, trans_b, splits, kernel, how);
      columns_apart();
    }
  if constexpr (sizeof(T) > 2)
    if (by_multiply_adds(kernel)) {
      p.columns = column_sums<T>(l);
      visit_tiling<T>(kernel,
                      [&](auto tile) { launch_tiles<decltype(tile)>(l, p, trans_a, trans_b, splits); });
    }
  if (splits == 1) return;
  if constexpr (sizeof(T) > 2)
    if (end.of_rows())
      return launch(sum_split_rows<T>, blocks_for(c.size / p.n, block_threads / row_lanes), block_threads, 0,
                    l.stream, p, c.size, static_cast<int>(splits));
  launch(sum_splits<T>, blocks_for(c.size, block_threads), block_threads, 0, l.stream, p, c.size,
         static_cast<int>(splits));
}

// The types whose matrices are multiplied; sums of products and updates by them run widened on the half ones.
template <class Body>
void visit_product(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::bf16:
      return body(BFloat16{});
    case DType::f16:
      return body(Float16{});
    default:
      return visit_floating(dtype, body);
  }
}

}  // namespace

void matmul_kernel(const Launch& l) {
  visit_product(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    product<T>(l, l.in, l.attrs->trans_a, l.attrs->trans_b, nullptr, false, following<T>(l));
  });
}

void matmul_sum_kernel(const Launch& l) {
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    for (std::int32_t i = 1; i < l.n_in; i += 2) {
      const View& plus = i == 1 ? l.in[0] : l.out[0];
      product<T>(l, l.in + i, l.attrs->trans_a, l.attrs->trans_b, pointer<const T>(plus), true);
    }
  });
}

void matmul_sgd_kernel(const Launch& l) {
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    product<T>(l, l.in + 1, l.attrs->trans_a, l.attrs->trans_b, nullptr, false, descent<T>(l));
  });
}

void affine_kernel(const Launch& l) {
  visit_product(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    product<T>(l, l.in, false, false, pointer<const T>(l.in[2]), false, following<T>(l));
  });
}

}  // namespace edfcore::cuda
