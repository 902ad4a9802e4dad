// A matmul by tensor cores: tiles go to shared memory by asynchronous copies, several on their way at a time,
// and from there to the registers of warps, which multiply 16 x 8 elements at once. For float32 and for
// elements of 16 bits, any shape, alignment and layout; results depend on the shape alone.
//
// Tensor cores take float32 as TF32, with 11 bits of precision, so a float32 x is cut in two, x = hi + lo,
// and a b is lo hi + hi lo + hi hi, as in CUTLASS's OpMultiplyAddFastF32. Operands are 2^11 lo, since lo may
// be too small for TF32, and sums are cut, not rounded, so none goes on for longer than eight terms: ordinary
// additions do the rest (both are in Ootomo and Yokota, Recovering single precision accuracy from Tensor
// Cores, 2022). An element that comes out infinite or NaN is computed again by multiply-adds.
#pragma once

#include "device/mma.h"
#include "ops/matmul_cuda.h"

namespace edfcore::cuda {

// A block of 256 threads computes M by N elements, its warps standing in WarpsM rows.
template <int M_, int N_, int WarpsM>
struct TensorTiling {
  static constexpr int M = M_, N = N_, stages = 4, warps_n = block_threads / 32 / WarpsM;
  static constexpr int warp_m = M / WarpsM, warp_n = N / warps_n;
  static constexpr int pieces_m = warp_m / 16, pairs_n = warp_n / 16;
  static_assert(warp_m % 16 == 0 && warp_n % 16 == 0);
};
using LargeTensorTiling = TensorTiling<128, 128, 2>;
using SmallTensorTiling = TensorTiling<64, 64, 2>;

template <class T>
inline constexpr int depth_of_tile = 64 / static_cast<int>(sizeof(T));

// A tile of an operand on its way to shared memory, where it lies as in the operand. `Side` is its extent
// along m or n. `Along` says that the operand's rows run along k; else they run along m or n.
template <class T, int Side, bool Along>
struct AsyncLoader {
  static constexpr int V = 16 / static_cast<int>(sizeof(T)), K = depth_of_tile<T>;
  static constexpr int row = Along ? K : Side, rows = Along ? Side : K;
  static constexpr int pitch = row + (Along ? V : 8);  // so that fragments come from different banks
  static constexpr int size = rows * pitch;
  static constexpr int per_row = row / V, copies = rows * per_row / block_threads;
  static constexpr int outer_step = block_threads / per_row;  // from one copy of a thread to its next
  static_assert(copies * block_threads == rows * per_row && block_threads % per_row == 0);

  TileWalk<T, Side, K, Along> walk;

  __device__ AsyncLoader(const T* x, std::int64_t side0, std::int64_t sides, std::int64_t k0,
                         std::int64_t stride)
      : walk(x, side0, sides, k0, stride, static_cast<int>(threadIdx.x) / per_row,
             static_cast<int>(threadIdx.x) % per_row * V, outer_step) {}

  // Begins to copy the next tile, of whose extent along k `depth` lie in the operand; what lies outside is 0.
  __device__ void begin(T* tile, int depth, bool wide) {
    T* to =
        tile + static_cast<int>(threadIdx.x) / per_row * pitch + static_cast<int>(threadIdx.x) % per_row * V;
    EDF_UNROLL
    for (int r = 0; r < copies; ++r, to += outer_step * pitch) {
      const int left = walk.left(depth, r * outer_step);
      const T* place = walk.from + r * walk.step_outer;
      if (wide) {
        const int valid = left < 0 ? 0 : left < V ? left : V;
        copy_async<16>(to, place, valid * static_cast<int>(sizeof(T)));
        continue;
      }
      EDF_UNROLL
      for (int v = 0; v < V; ++v) {
        if constexpr (sizeof(T) == 4)
          copy_async<4>(to + v, place + v, v < left ? 4 : 0);
        else
          to[v] = v < left ? place[v] : T{};
      }
    }
    walk.from += walk.step_tile;
  }

  // 16 elements along m or n from `side` and 32 bytes along k from `k`: words (side g, k t), (g + 8, t),
  // (g, t + 4), (g + 8, t + 4) in lane 4 g + t, as `a` of a product, and as `b` of two.
  __device__ static void fragment(std::uint32_t (&r)[4], const T* tile, int side, int k) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (Along) {
      load_matrices<false>(r, tile + (side + lane % 16) * pitch + k + lane / 16 * V);
    } else if constexpr (sizeof(T) == 2) {
      load_matrices<true>(r, tile + (k + lane / 16 * 8 + lane % 8) * pitch + side + lane / 8 % 2 * 8);
    } else {
      EDF_UNROLL
      for (int i = 0; i < 4; ++i)
        r[i] = __float_as_uint(tile[(k + lane % 4 + i / 2 * 4) * pitch + side + lane / 4 + i % 2 * 8]);
    }
  }
};

// Four words of an operand, and what float32 has beyond them.
template <bool Parts>
struct Words {
  std::uint32_t hi[4], lo[Parts ? 4 : 1];
};

inline constexpr std::uint32_t tf32_bits = 0xffffe000u;
inline constexpr float lo_scale = 2048, largest = 3.402823466e38f;

template <class T, bool Parts>
__device__ inline void convert(Words<Parts>& words) {
  if constexpr (sizeof(T) == 4) {
    EDF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float x = __uint_as_float(words.hi[i]);
      if constexpr (Parts) {
        // As to_tf32 rounds, in fewer instructions. What is not finite, or rounds to infinity, is so or NaN
        // in lo, and what NaN becomes here matters no more. To cut lo is as good as to round it: it has at
        // most twelve bits.
        words.hi[i] = (words.hi[i] + 0x1000u) & tf32_bits;
        words.lo[i] = __float_as_uint((x - __uint_as_float(words.hi[i])) * lo_scale) & tf32_bits;
      } else {
        words.hi[i] = to_tf32(x);
      }
    }
  }
}

template <class T>
__device__ inline void multiply_words(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                      std::uint32_t b1) {
  if constexpr (std::is_same_v<T, float>)
    mma_tf32(d, a, b0, b1);
  else if constexpr (std::is_same_v<T, BFloat16>)
    mma_bf16(d, a, b0, b1);
  else
    mma_f16(d, a, b0, b1);
}

// One element by multiply-adds, [k_begin, k_end) of its terms, in the order of k. NaN stays NaN.
template <class T>
__device__ float plain_product(const T* a, std::int64_t step_a, const T* b, std::int64_t step_b,
                               std::int64_t terms) {
  float sum = 0;
  for (std::int64_t k = 0; k < terms && sum == sum; ++k)
    sum = fmaf(static_cast<float>(a[k * step_a]), static_cast<float>(b[k * step_b]), sum);
  return sum;
}

// Elements of a split's product go to their places among the parts, or to the result.
template <class T>
struct Results {
  float* parts;
  T* c;
  const T* plus;
  std::int64_t plus_step, n;
  bool pairs;

  __device__ Results(const Problem<T>& p, std::int64_t split, std::int64_t nth)
      : parts(p.parts == nullptr ? nullptr : p.parts + (split * p.batch + nth) * p.m * p.n),
        c(p.c + nth * p.m * p.n),
        plus(p.plus == nullptr ? nullptr : p.plus + nth * p.m * p.plus_step),
        plus_step(p.plus_step),
        n(p.n),
        pairs(p.pairs) {}

  __device__ void put(std::int64_t row, std::int64_t col, float x) const {
    if (parts != nullptr)
      parts[row * n + col] = x;
    else
      c[row * n + col] =
          static_cast<T>(plus == nullptr ? x : x + static_cast<float>(plus[row * plus_step + col]));
  }

  // The one in `col`, which is even, and the next, if there is one.
  __device__ void put(std::int64_t row, std::int64_t col, float x, float y) const {
    if (!pairs) {
      put(row, col, x);
      if (col + 1 < n) put(row, col + 1, y);
    } else if (parts != nullptr) {
      store_pack<float, 2>(parts + row * n + col, {{x, y}});
    } else {
      if (plus != nullptr) {
        const Pack<T, 2> more = load_pack<T, 2>(plus + row * plus_step + col);
        x += static_cast<float>(more.v[0]);
        y += static_cast<float>(more.v[1]);
      }
      store_pack<T, 2>(c + row * n + col, {{static_cast<T>(x), static_cast<T>(y)}});
    }
  }
};

template <class Tile, bool TransA, bool TransB, bool Parts, class T>
__global__ void __launch_bounds__(block_threads, Parts ? 1 : 2) matmul_tensor(Problem<T> p) {
#if defined(EDFCORE_SIM) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using LoadA = AsyncLoader<T, Tile::M, !TransA>;
  using LoadB = AsyncLoader<T, Tile::N, TransB>;
  constexpr int K = depth_of_tile<T>, step = 32 / static_cast<int>(sizeof(T)), stages = Tile::stages;
  constexpr int stage_size = LoadA::size + LoadB::size;
  [[maybe_unused]] constexpr int at_once = Tile::M > 64 ? 1 : K / step;  // steps; more would spill registers
  T* const shared = dynamic_shared<T>();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_m = warp / Tile::warps_n * Tile::warp_m, warp_n = warp % Tile::warps_n * Tile::warp_n;
  const BlockPlace<Tile> place(p);
  const std::int64_t m0 = place.m0, n0 = place.n0, k_begin = place.k_begin, k_end = place.k_end,
                     nth = place.nth;
  LoadA a(p.a + nth * p.step_a, m0, p.m, k_begin, TransA ? p.m : p.k);
  LoadB b(p.b + nth * p.step_b, n0, p.n, k_begin, TransB ? p.k : p.n);

  float acc[Tile::pieces_m][2 * Tile::pairs_n][4];
  EDF_UNROLL
  for (int i = 0; i < Tile::pieces_m; ++i) {
    EDF_UNROLL
    for (int j = 0; j < 2 * Tile::pairs_n; ++j) {
      EDF_UNROLL
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
    }
  }

  std::int64_t to_copy = k_end - k_begin;
  const auto copy_next = [&](int stage) {
    if (to_copy > 0) {
      const int depth = to_copy < K ? static_cast<int>(to_copy) : K;
      a.begin(shared + stage * stage_size, depth, p.wide_a);
      b.begin(shared + stage * stage_size + LoadA::size, depth, p.wide_b);
      to_copy -= K;
    }
    copy_async_commit();  // perhaps of nothing: groups are counted
  };
  for (int stage = 0; stage < stages - 1; ++stage) copy_next(stage);
  int stage = 0;
  for (std::int64_t left = k_end - k_begin; left > 0; left -= K) {
    copy_async_wait<stages - 2>();
    __syncthreads();  // this tile is there, and nobody reads the one before, whose place the next one takes
    copy_next(stage == 0 ? stages - 1 : stage - 1);
    const T* tile_a = shared + stage * stage_size;
    const T* tile_b = tile_a + LoadA::size;
    stage = stage == stages - 1 ? 0 : stage + 1;
    EDF_UNROLL_BY(at_once)
    for (int k = 0; k < K; k += step) {
      Words<Parts> of_a[Tile::pieces_m];
      EDF_UNROLL
      for (int i = 0; i < Tile::pieces_m; ++i) {
        LoadA::fragment(of_a[i].hi, tile_a, warp_m + i * 16, k);
        convert<T>(of_a[i]);
      }
      EDF_UNROLL
      for (int j = 0; j < Tile::pairs_n; ++j) {
        Words<Parts> of_b;
        LoadB::fragment(of_b.hi, tile_b, warp_n + j * 16, k);
        convert<T>(of_b);
        EDF_UNROLL
        for (int half = 0; half < 2; ++half) {
          EDF_UNROLL
          for (int i = 0; i < Tile::pieces_m; ++i) {
            float(&sum)[4] = acc[i][2 * j + half];
            if constexpr (Parts) {
              float small[4] = {}, large[4] = {};
              multiply_words<T>(small, of_a[i].lo, of_b.hi[half], of_b.hi[half + 2]);
              multiply_words<T>(small, of_a[i].hi, of_b.lo[half], of_b.lo[half + 2]);
              multiply_words<T>(large, of_a[i].hi, of_b.hi[half], of_b.hi[half + 2]);
              EDF_UNROLL
              for (int e = 0; e < 4; ++e) sum[e] += fmaf(small[e], 1 / lo_scale, large[e]);
            } else {
              multiply_words<T>(sum, of_a[i].hi, of_b.hi[half], of_b.hi[half + 2]);
            }
          }
        }
      }
    }
  }
  copy_async_wait<0>();

  const Results<T> results(p, static_cast<std::int64_t>(blockIdx.y), nth);
  const auto row_of = [&](int i, int half) { return m0 + warp_m + i * 16 + half * 8 + lane / 4; };
  const auto col_of = [&](int j) { return n0 + warp_n + j * 8 + lane % 4 * 2; };
  const auto once_more = [&](std::int64_t row, std::int64_t col) {
    const T* const a_row = p.a + nth * p.step_a + k_begin * (TransA ? p.m : 1) + row * (TransA ? 1 : p.k);
    const T* const b_col = p.b + nth * p.step_b + k_begin * (TransB ? 1 : p.n) + col * (TransB ? p.k : 1);
    return plain_product(a_row, TransA ? p.m : 1, b_col, TransB ? 1 : p.n, k_end - k_begin);
  };
  if constexpr (sizeof(T) == 4) {
    if (results.parts == nullptr && p.end.kind != Formula::none) {
      constexpr int across = 2 * Tile::pairs_n, pieces = Tile::pieces_m * across;
      EDF_UNROLL_BY(1)
      for (int piece = 0; piece < pieces; ++piece) {  // whose turn it is stands in the first place
        float(&x)[4] = acc[0][0];
        const auto row = [&](int e) { return row_of(piece / across, e / 2); };
        const auto col = [&](int e) { return col_of(piece % across) + e % 2; };
        const auto exists = [&](int e) { return row(e) < p.m && col(e) < p.n; };
        EDF_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (!exists(e)) continue;
          if (!(fabsf(x[e]) <= largest)) x[e] = once_more(row(e), col(e));
          if (results.plus != nullptr) x[e] += results.plus[row(e) * p.plus_step + col(e)];
        }
        finish(p.end, p.c, x,
               [&](int e) { return exists(e) ? (nth * p.m + row(e)) * p.n + col(e) : std::int64_t{-1}; });
        EDF_UNROLL
        for (int next = 1; next < pieces; ++next) {
          EDF_UNROLL
          for (int e = 0; e < 4; ++e)
            acc[(next - 1) / across][(next - 1) % across][e] = acc[next / across][next % across][e];
        }
      }
      return;
    }
  }
  std::uint64_t again = 0;  // elements
  EDF_UNROLL
  for (int i = 0; i < Tile::pieces_m; ++i) {
    EDF_UNROLL
    for (int j = 0; j < 2 * Tile::pairs_n; ++j) {
      EDF_UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::int64_t row = row_of(i, half), col = col_of(j);
        if (row >= p.m || col >= p.n) continue;
        const float x = acc[i][j][2 * half], y = acc[i][j][2 * half + 1];
        const bool good_x = sizeof(T) == 2 || fabsf(x) <= largest,
                   good_y = sizeof(T) == 2 || fabsf(y) <= largest;
        if (good_x && good_y) {
          results.put(row, col, x, y);
          continue;
        }
        // What is not good is not written either: `plus` may be where the result is.
        const int number = ((i * 2 * Tile::pairs_n + j) * 2 + half) * 2;
        if (good_x)
          results.put(row, col, x);
        else
          again |= std::uint64_t{1} << number;
        if (col + 1 >= p.n) continue;
        if (good_y)
          results.put(row, col + 1, y);
        else
          again |= std::uint64_t{2} << number;
      }
    }
  }
  if constexpr (sizeof(T) == 4) {
    for (; again != 0; again &= again - 1) {
      const int number = __ffsll(static_cast<long long>(again)) - 1, piece = number / 4;
      const std::int64_t row = row_of(piece / (2 * Tile::pairs_n), number / 2 % 2),
                         col = col_of(piece % (2 * Tile::pairs_n)) + number % 2;
      results.put(row, col, once_more(row, col));
    }
  }
#endif
}

}  // namespace edfcore::cuda
