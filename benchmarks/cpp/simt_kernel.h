// A matmul of register tiles that its operands reach by asynchronous copies: a candidate for the engine's
// csrc/ops/matmul.cu, which simt_matmul.cu proves and times on hardware first. Every element is one chain of
// multiply-adds in the order of k, or a sum of such chains where k is split.
#pragma once

#include "ops/kernel_cuda.h"

namespace edfcore::simt {

using cuda::block_threads;
using cuda::divide;
using cuda::load_pack;
using cuda::Pack;
using cuda::store_pack;
using cuda::thread_number;

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// ---- copies from global to shared memory that run on while the thread goes on, where the chip has them ----

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
// Copies V elements; zeros where they are not `there`, and then `from` may point anywhere.
template <int V, class T>
__device__ __forceinline__ void copy_async(T* to, const T* from, bool there) {
  constexpr int bytes = V * static_cast<int>(sizeof(T));
  const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int size = there ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(size));
  else
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(bytes),
                 "r"(size));
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Open` of the thread's groups of copies are under way.
template <int Open>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
}
#else
template <int V, class T>
__device__ __forceinline__ void copy_async(T* to, const T* from, bool there) {
  Pack<T, V> pack{};
  if (there) pack = load_pack<T, V>(from);
  store_pack(to, pack);
}
__device__ __forceinline__ void close_copies() {}
template <int Open>
__device__ __forceinline__ void await_copies() {}
#endif

// Keeps the compiler from computing many pointers beforehand, for which there are no registers.
template <class T>
__device__ __forceinline__ void keep_apart(const T*& pointer) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pointer));
#endif
}

// ---- tiles ----

// A block computes M by N elements of the result, K of the inner dimension at a time; a warp WM by WN of them
// and a thread TM by TN. `Stages` tiles of the operands are in shared memory or on their way. `Slices` groups
// of warps share the K, each with a chain of its own. `Blocks` are to fit on a multiprocessor.
template <int M_, int N_, int K_, int WM_, int WN_, int TM_, int TN_, int Stages_, int Slices_, int Blocks>
struct Tiling {
  static constexpr int M = M_, N = N_, K = K_, WM = WM_, WN = WN_, TM = TM_, TN = TN_;
  static constexpr int stages = Stages_, slices = Slices_, blocks = Blocks;
  static constexpr int warps_n = N / WN, warps = M / WM * warps_n;  // of a slice
  static constexpr int threads = warps * slices * 32;
  static constexpr int lanes_m = WM / TM, lanes_n = WN / TN;
  static_assert(M % WM == 0 && N % WN == 0 && WM % TM == 0 && WN % TN == 0);
  static_assert(lanes_m * lanes_n == 32 && lanes_m % 2 == 0 && K % (2 * slices) == 0 && stages >= 2);
};

template <class T>
struct Problem {
  std::int64_t m, n, k;
  const T* a;     // (m, k), or (k, m) to be transposed
  const T* b;     // (k, n), or (n, k) to be transposed
  const T* bias;  // (n,) or null
  T* c;           // (m, n), or one such for each split
  std::int64_t k_per_split;
  unsigned tiles_m, tiles_n;
  bool wide_a, wide_b, wide_c;  // rows can be read, or written, in packs of 16 bytes
};

// Copies tiles of an operand to shared memory, where their rows run along m or n. `Side` is the tile's extent
// along m or n. `Along` says that the operand's own rows run along k: it is then copied element by element,
// eight along k at a time, which meets no bank twice; else V elements at a time. What lies outside the
// operand is 0.
template <class T, int Side, int K, int Threads, bool Along, int V>
struct Loader {
  static constexpr int pitch =
      Side + 16 / static_cast<int>(sizeof(T));         // of the tile's rows in shared memory
  static constexpr int across = Along ? 8 : Side / V;  // threads along the operand's rows
  static constexpr int down = Threads / across;        // rows that are read at once
  static constexpr int rows = Along ? Side : K;
  static constexpr int reads = rows < down ? 1 : rows / down;
  static_assert(Threads % across == 0 && (rows < down || rows % down == 0) && K % 8 == 0);

  const T* from;                     // the thread's next place
  std::int64_t step_row, step_tile;  // from a read to the next; from the last read to the next tile's first
  int row, column;                   // its place in the tile
  int rows_inside;                   // how many rows of the operand lie in the tile, if `Along`

  __device__ __forceinline__ Loader(const T* x, std::int64_t side0, std::int64_t sides, std::int64_t k0,
                                    std::int64_t stride) {
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t left = sides - side0;
    row = thread / across;
    column = thread % across * (Along ? 1 : V);
    from = x + (Along ? (side0 + row) * stride + k0 + column : (k0 + row) * stride + side0 + column);
    step_row = down * stride;
    step_tile = (Along ? K : K * stride) - (reads - 1) * step_row;
    rows_inside = left < Side ? static_cast<int>(left) : Side;
    if (!Along && column >= left) row += 1 << 20;  // beyond every depth
  }

  // Copies the next tile, of whose extent along k `depth` lie in the operand (none if negative).
  __device__ __forceinline__ void copy(T* shared, int depth) {
    const int outer = static_cast<int>(threadIdx.x) / across;
    EDF_UNROLL
    for (int r = 0; r < reads; ++r) {
      const int at_row = row + r * down;
      T* const to =
          shared + (Along ? column * pitch + outer + r * down : (outer + r * down) * pitch + column);
      if (rows >= down || outer < rows) {
        if constexpr (Along) {
          EDF_UNROLL
          for (int k = 0; k < K; k += 8)
            copy_async<1>(to + k * pitch, from + k, at_row < rows_inside && column + k < depth);
        } else {
          copy_async<V>(to, from, at_row < depth);
        }
      }
      from += r == reads - 1 ? step_tile : step_row;
      keep_apart(from);
    }
  }
};

template <int Most>
__device__ __forceinline__ int at_most(std::int64_t n) {
  return n < Most ? static_cast<int>(n) : Most;
}

// The elements of a thread along one side of its warp's tile come in packs (or all of them, if fewer), a
// stride apart, so that neighbouring lanes read neighbouring shared memory.
template <class T, int Count>
inline constexpr int pack_of =
    Count < 16 / static_cast<int>(sizeof(T)) ? Count : 16 / static_cast<int>(sizeof(T));

template <class T, int Count, int Lanes>
__device__ constexpr int place_of(int lane, int i) {
  constexpr int pack = pack_of<T, Count>;
  return i / pack * (Lanes * pack) + lane * pack + i % pack;
}

template <int Count, int Lanes, class T>
__device__ __forceinline__ void load_fragment(T (&to)[Count], const T* from) {
  constexpr int pack = pack_of<T, Count>;
  EDF_UNROLL
  for (int i = 0; i < Count; i += pack) {
    const Pack<T, pack> p = load_pack<T, pack>(from + i * Lanes);
    EDF_UNROLL
    for (int v = 0; v < pack; ++v) to[i + v] = p.v[v];
  }
}

// Adds to group 0's sums those of the other groups of warps, in their order.
template <class Tile, class T>
__device__ __forceinline__ void add_slices(T (&acc)[Tile::TM][Tile::TN], T* shared) {
  constexpr int group = Tile::warps * 32;
  const int thread = static_cast<int>(threadIdx.x) % group, slice = static_cast<int>(threadIdx.x) / group;
  for (int s = 1; s < Tile::slices; ++s) {
    __syncthreads();
    EDF_UNROLL
    for (int i = 0; i < Tile::TM * Tile::TN; ++i)
      if (slice == s) shared[i * group + thread] = acc[i / Tile::TN][i % Tile::TN];
    __syncthreads();
    EDF_UNROLL
    for (int i = 0; i < Tile::TM * Tile::TN; ++i)
      if (slice == 0) acc[i / Tile::TN][i % Tile::TN] += shared[i * group + thread];
  }
}

// `Packs`: the operands whose rows run along m or n can be read in packs.
template <class Tile, bool TransA, bool TransB, bool Packs, class T>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks) matmul_tiles(Problem<T> p) {
  constexpr int K = Tile::K, TM = Tile::TM, TN = Tile::TN, stages = Tile::stages;
  constexpr int V = Packs ? 16 / static_cast<int>(sizeof(T)) : 1;
  using LoadA = Loader<T, Tile::M, K, Tile::threads, !TransA, V>;
  using LoadB = Loader<T, Tile::N, K, Tile::threads, TransB, V>;
  constexpr int size_a = K * LoadA::pitch, stage_size = size_a + K * LoadB::pitch;
  constexpr int sums = Tile::slices > 1 ? Tile::M * Tile::N : 0;
  EDF_SHARED(T, shared, (stages * stage_size > sums ? stages * stage_size : sums));

  // Blocks that run together stand in a square of tiles, so that they read the same operands.
  constexpr unsigned square = 16;
  const unsigned above = blockIdx.x / (square * p.tiles_n) * square;
  const unsigned height = p.tiles_m - above < square ? p.tiles_m - above : square;
  const unsigned in_square = blockIdx.x - above * p.tiles_n;
  const std::int64_t m0 = static_cast<std::int64_t>(above + in_square % height) * Tile::M;
  const std::int64_t n0 = static_cast<std::int64_t>(in_square / height) * Tile::N;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * p.k_per_split;
  const std::int64_t k_end = k_begin + p.k_per_split < p.k ? k_begin + p.k_per_split : p.k;

  // Lanes stand in a grid whose first bit goes along m, the next along n: then the halves of a warp need two
  // accesses for 16-byte reads of shared memory, not four.
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int slice = warp / Tile::warps, in_slice = warp % Tile::warps;
  const int lane_m = lane % 2 + lane / (2 * Tile::lanes_n) * 2, lane_n = lane / 2 % Tile::lanes_n;
  const int warp_m = in_slice / Tile::warps_n * Tile::WM, warp_n = in_slice % Tile::warps_n * Tile::WN;
  constexpr int depth = K / Tile::slices;  // what a group of warps takes of the K
  const T* const own_a =
      shared + slice * depth * LoadA::pitch + warp_m + place_of<T, TM, Tile::lanes_m>(lane_m, 0);
  const T* const own_b =
      shared + size_a + slice * depth * LoadB::pitch + warp_n + place_of<T, TN, Tile::lanes_n>(lane_n, 0);

  T acc[TM][TN];
  EDF_UNROLL
  for (int i = 0; i < TM; ++i) {
    EDF_UNROLL
    for (int j = 0; j < TN; ++j) acc[i][j] = T(0);
  }

  LoadA a(p.a, m0, p.m, k_begin, TransA ? p.m : p.k);
  LoadB b(p.b, n0, p.n, k_begin, TransB ? p.k : p.n);
  std::int64_t left = k_end - k_begin, ahead = left;  // to be multiplied; to be copied
  EDF_UNROLL
  for (int s = 0; s < stages - 1; ++s) {
    a.copy(shared + s * stage_size, at_most<K>(ahead));
    b.copy(shared + s * stage_size + size_a, at_most<K>(ahead));
    close_copies();
    ahead -= K;
  }
  await_copies<stages - 2>();
  __syncthreads();

  T rows[2][TM], cols[2][TN];  // while one is multiplied, the other is read
  load_fragment<TM, Tile::lanes_m>(rows[0], own_a);
  load_fragment<TN, Tile::lanes_n>(cols[0], own_b);
  int reading = 0, writing = (stages - 1) * stage_size;
  for (; left > 0; left -= K) {
    EDF_UNROLL
    for (int k = 0; k < depth; ++k) {
      const int now = k % 2, next = 1 - now;
      if (k == depth - 1) {  // the next tile must have come, and all must be done with this one
        await_copies<stages - 2>();
        __syncthreads();
        reading = reading == (stages - 1) * stage_size ? 0 : reading + stage_size;
      }
      load_fragment<TM, Tile::lanes_m>(rows[next], own_a + reading + (k + 1) % depth * LoadA::pitch);
      load_fragment<TN, Tile::lanes_n>(cols[next], own_b + reading + (k + 1) % depth * LoadB::pitch);
      if (k == 0) {
        a.copy(shared + writing, at_most<K>(ahead));
        b.copy(shared + writing + size_a, at_most<K>(ahead));
        close_copies();
        ahead -= K;
        writing = writing == (stages - 1) * stage_size ? 0 : writing + stage_size;
      }
      EDF_UNROLL
      for (int i = 0; i < TM; ++i) {
        EDF_UNROLL
        for (int j = 0; j < TN; ++j) acc[i][j] = multiply_add(rows[now][i], cols[now][j], acc[i][j]);
      }
    }
  }

  if constexpr (Tile::slices > 1) {
    await_copies<0>();
    add_slices<Tile>(acc, shared);
    if (slice > 0) return;
  }
  T* c = p.c + static_cast<std::int64_t>(blockIdx.y) * p.m * p.n;
  constexpr int pack = pack_of<T, TN>;
  EDF_UNROLL
  for (int i = 0; i < TM; ++i) {
    const std::int64_t row = m0 + warp_m + place_of<T, TM, Tile::lanes_m>(lane_m, i);
    EDF_UNROLL
    for (int j = 0; j < TN; j += pack) {
      const std::int64_t col = n0 + warp_n + place_of<T, TN, Tile::lanes_n>(lane_n, j);
      if (row < p.m && col < p.n) {
        Pack<T, pack> out;
        EDF_UNROLL
        for (int v = 0; v < pack; ++v)
          out.v[v] = p.bias == nullptr || col + v >= p.n ? acc[i][j + v] : acc[i][j + v] + p.bias[col + v];
        if (p.wide_c) {
          store_pack(c + row * p.n + col, out);
        } else {
          EDF_UNROLL
          for (int v = 0; v < pack; ++v)
            if (col + v < p.n) c[row * p.n + col + v] = out.v[v];
        }
      }
    }
  }
}

// The splits of k, summed in their order; V elements by a thread.
template <class T, int V>
__global__ void __launch_bounds__(block_threads)
    sum_splits(const T* parts, const T* bias, T* c, std::int64_t size, std::int64_t n, int splits) {
  const std::int64_t i = thread_number() * V;
  if (i >= size) return;
  Pack<T, V> sum = load_pack<T, V>(parts + i);
  for (int s = 1; s < splits; ++s) {
    const Pack<T, V> part = load_pack<T, V>(parts + s * size + i);
    EDF_UNROLL
    for (int v = 0; v < V; ++v) sum.v[v] += part.v[v];
  }
  if (bias != nullptr) {
    const std::int64_t col = divide(i, n).remainder;
    EDF_UNROLL
    for (int v = 0; v < V; ++v) sum.v[v] += bias[col + v];
  }
  store_pack(c + i, sum);
}

}  // namespace edfcore::simt
