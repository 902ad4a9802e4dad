// A matmul for Hopper: one producer warpgroup fills a ring of shared-memory stages by TMA, two consumer
// warpgroups multiply out of it by wgmma, and every block works through its share of the tiles of the result.
//
// float32 inputs come as bf16 parts: x = hi + mid + lo, each the rounded rest of the ones before
// (split_parts). The result sums the products of parts that matter: 1 (hi hi: bf16), 3 (+ hi mid + mid hi,
// about 2^-17) or 6
// (+ hi lo + lo hi + mid mid: float32). A k-block's tiles of parts are loaded once and serve all its
// products.
#pragma once

#include <cuda_bf16.h>

#include "hopper_ptx.h"

namespace edfcore::hopper {

// Products by size, the smallest first; a kernel with P products does the last P. Digit i names the part.
__host__ __device__ constexpr int product_a(int i) { return 0x001102 >> 4 * i & 15; }
__host__ __device__ constexpr int product_b(int i) { return 0x010120 >> 4 * i & 15; }
constexpr int parts_of(int products) { return products == 1 ? 1 : products == 3 ? 2 : 3; }

// TransA: A is stored (k, m), else (m, k). TransB: B is stored (n, k), else (k, n).
// Promote: the tensor cores cut off what does not fit when they add to their accumulator, always toward zero,
// so its error grows with k; every so many k-blocks it is added to a sum of ours, rounded to nearest, and
// begins anew. 0: never.
template <bool TransA_, bool TransB_, int Products_, int N_, int K_, int Stages_, int Promote_>
struct Config {
  static constexpr bool TransA = TransA_, TransB = TransB_;
  static constexpr int Products = Products_, Parts = parts_of(Products_), Stages = Stages_,
                       Promote = Promote_;
  static constexpr int M = 128, N = N_, K = K_;  // of a tile
  static constexpr int consumers = M / 64, threads = 128 * (1 + consumers);
  using LayoutA = OperandLayout<TransA, K>;
  using LayoutB = OperandLayout<!TransB, K>;
  static constexpr int bytes_a = M * K * 2, bytes_b = N * K * 2;  // of one part
  static constexpr int stage_bytes = Parts * (bytes_a + bytes_b);
  static constexpr int shared_bytes = 1024 + Stages * (stage_bytes + 16);  // 1024 to align, 16 for barriers
  static constexpr int group = N >= 192 ? 16 : 12;  // tiles along m whose blocks run side by side
  // A finished group of wgmma may stay behind the one that runs, where a stage can be spared for that.
  static constexpr int behind = Promote == 0 && Stages >= 3 ? 1 : 0;
  static_assert(shared_bytes <= 227 * 1024 && bytes_a % 1024 == 0 && bytes_b % 1024 == 0 && N % 64 == 0);
};

struct Problem {
  int m, n, tiles_m, tiles_n, k_blocks;  // n is even: elements are stored in pairs
  float* c;
};

// What a thread waited for in vain: role and stage, parity, block. Host memory, since the context dies with
// it.
struct Hang {
  volatile unsigned seen, producer, stage, parity, block, k_block;
};
__device__ Hang* hang_report;

// Waiting has an end, so that an error in the protocol is a message and not a device that stands still.
__device__ __forceinline__ void wait_for(std::uint32_t barrier, std::uint32_t parity, bool producer,
                                         int stage, int k_block) {
  if (mbarrier_try_wait(barrier, parity)) return;
  const long long start = clock64();
  while (!mbarrier_try_wait(barrier, parity)) {
    if (clock64() - start < 3'000'000'000LL) continue;
    Hang* h = hang_report;
    h->producer = producer;
    h->stage = static_cast<unsigned>(stage);
    h->parity = parity;
    h->block = blockIdx.x;
    h->k_block = static_cast<unsigned>(k_block);
    h->seen = 1;
    __threadfence_system();
    __trap();
  }
}

// Tiles in an order in which the blocks that run at one time share rows of A and columns of B in the L2
// cache.
struct TileAt {
  int m, n;
};
template <int Group>
__device__ __forceinline__ TileAt tile_at(int number, const Problem& p) {
  const int in_group = Group * p.tiles_n, first = number / in_group * Group, rest = number % in_group;
  const int rows = min(Group, p.tiles_m - first);
  return {first + rest % rows, rest / rows};
}

template <int Stages>
struct Ring {
  int stage = 0;
  std::uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// All parts of a tile, `Side` along m or n from `side0`, from `k0` along k. An MN-major tile comes in boxes
// of 64 along m or n, since a row of the swizzle is no longer.
template <bool MnMajor, int Side, int K, int Parts>
__device__ __forceinline__ void load_tile(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                          int side0, int k0) {
#pragma unroll
  for (int part = 0; part < Parts; ++part) {
    const std::uint32_t at = to + part * Side * K * 2;
    if constexpr (MnMajor) {
#pragma unroll
      for (int s = 0; s < Side; s += 64) tma_load_3d(at + s * K * 2, map, barrier, side0 + s, k0, part);
    } else {
      tma_load_3d(at, map, barrier, k0, side0, part);
    }
  }
}

// The products of one k-block, as one group of wgmma.
template <class C>
__device__ __forceinline__ void multiply_block(float (&d)[C::N / 2], std::uint64_t a, std::uint64_t b,
                                               bool add) {
  wgmma_fence();
#pragma unroll
  for (int i = 6 - C::Products; i < 6; ++i) {
#pragma unroll
    for (int k = 0; k < C::K / 16; ++k) {
      wgmma<C::N, C::TransA, !C::TransB>(d, a + ((product_a(i) * C::bytes_a + k * C::LayoutA::k16) >> 4),
                                         b + ((product_b(i) * C::bytes_b + k * C::LayoutB::k16) >> 4), add);
      add = true;
    }
  }
  wgmma_commit();
}

// The 64 x N of a warpgroup, two neighbouring elements at a time; four lanes fill a sector of 32 bytes.
template <int N>
__device__ __forceinline__ void store_rows(const float (&d)[N / 2], const Problem& p, int m0, int n0) {
  const int lane = threadIdx.x % 32, row = m0 + threadIdx.x % 128 / 32 * 16 + lane / 4,
            col = n0 + lane % 4 * 2;
  float* c = p.c + static_cast<std::int64_t>(row) * p.n + col;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    if (col + 8 * i >= p.n) break;
    if (row < p.m) *reinterpret_cast<float2*>(c + 8 * i) = make_float2(d[4 * i], d[4 * i + 1]);
    if (row + 8 < p.m)
      *reinterpret_cast<float2*>(c + 8 * i + 8 * static_cast<std::int64_t>(p.n)) =
          make_float2(d[4 * i + 2], d[4 * i + 3]);
  }
}

template <class C>
__global__ void __launch_bounds__(C::threads, 1)
    matmul_wgmma(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                 Problem p) {
  extern __shared__ unsigned char dynamic_shared[];
  const std::uint32_t tiles = (shared_address(dynamic_shared) + 1023) & ~1023u;
  const std::uint32_t full = tiles + C::Stages * C::stage_bytes, empty = full + 8 * C::Stages;
  // By a shuffle the compiler knows it to be the same in a warp.
  const int group = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x / 128), 0);
  if (threadIdx.x == 0) {
    tma_prefetch_map(&map_a);
    tma_prefetch_map(&map_b);
    for (int s = 0; s < C::Stages; ++s) {
      mbarrier_init(full + 8 * s, 1);
      // From each warp, since a thread's wait for its wgmma says nothing of other warps'.
      mbarrier_init(empty + 8 * s, 4 * C::consumers);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int all_tiles = p.tiles_m * p.tiles_n, step = static_cast<int>(gridDim.x);
  Ring<C::Stages> ring;
  if (group == 0) {
    setmaxnreg_dec<40>();
    if (threadIdx.x != 0) return;
    for (int t = static_cast<int>(blockIdx.x); t < all_tiles; t += step) {
      const TileAt at = tile_at<C::group>(t, p);
      for (int kb = 0; kb < p.k_blocks; ++kb, ring.next()) {
        wait_for(empty + 8 * ring.stage, ring.phase ^ 1, true, ring.stage, kb);
        const std::uint32_t barrier = full + 8 * ring.stage, a = tiles + ring.stage * C::stage_bytes;
        mbarrier_expect(barrier, C::stage_bytes);
        load_tile<C::TransA, C::M, C::K, C::Parts>(a, &map_a, barrier, at.m * C::M, kb * C::K);
        load_tile<!C::TransB, C::N, C::K, C::Parts>(a + C::Parts * C::bytes_a, &map_b, barrier, at.n * C::N,
                                                    kb * C::K);
      }
    }
  } else {
    setmaxnreg_inc<232>();
    const int consumer = group - 1;
    const bool signals = threadIdx.x % 32 == 0;
    float d[C::N / 2] = {};
    for (int t = static_cast<int>(blockIdx.x); t < all_tiles; t += step) {
      float sum[C::Promote != 0 ? C::N / 2 : 1] = {};
      int last = ring.stage, fresh = 0;  // the stage that is still read; k-blocks since the accumulator began
      for (int kb = 0; kb < p.k_blocks; ++kb, ring.next()) {
        wait_for(full + 8 * ring.stage, ring.phase, false, ring.stage, kb);
        const std::uint32_t a = tiles + ring.stage * C::stage_bytes + consumer * 64 * C::K * 2;
        const std::uint32_t b = tiles + ring.stage * C::stage_bytes + C::Parts * C::bytes_a;
        multiply_block<C>(d, C::LayoutA::descriptor(a), C::LayoutB::descriptor(b), fresh != 0);
        wgmma_wait<C::behind>();
        ++fresh;
        if (C::behind == 0) {
          if (signals) mbarrier_arrive(empty + 8 * ring.stage);
        } else if (kb > 0 && signals) {
          mbarrier_arrive(empty + 8 * last);
        }
        last = ring.stage;
        if constexpr (C::Promote != 0) {
          if (fresh == C::Promote || kb + 1 == p.k_blocks) {
            pin_registers(d);
#pragma unroll
            for (int i = 0; i < C::N / 2; ++i) sum[i] += d[i];
            fresh = 0;
          }
        }
      }
      if (C::behind != 0) {
        wgmma_wait<0>();
        if (signals) mbarrier_arrive(empty + 8 * last);
      }
      pin_registers(d);
      const TileAt at = tile_at<C::group>(t, p);
      const int m0 = at.m * C::M + 64 * consumer, n0 = at.n * C::N;
      if constexpr (C::Promote != 0)
        store_rows<C::N>(sum, p, m0, n0);
      else
        store_rows<C::N>(d, p, m0, n0);
    }
  }
}

// x, `count` of them (a multiple of 4), to planes of bf16 that lie one behind the other.
template <int Parts>
__global__ void split_parts(const float* x, __nv_bfloat16* planes, std::int64_t count) {
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const float4 four = *reinterpret_cast<const float4*>(x + i);
  float rest[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int part = 0; part < Parts; ++part) {
    __nv_bfloat162 pair[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      pair[j] = __floats2bfloat162_rn(rest[2 * j], rest[2 * j + 1]);
      rest[2 * j] -= __low2float(pair[j]);  // exact, as is the next
      rest[2 * j + 1] -= __high2float(pair[j]);
    }
    *reinterpret_cast<uint2*>(planes + part * count + i) = *reinterpret_cast<uint2*>(pair);
  }
}

// One 64 x 128 tile of one k-block, with the offsets of the descriptors as arguments: to learn what they
// mean.
struct Offsets {
  std::uint32_t leading, stride, k16;
};
template <bool TransA, bool TransB, int K>
__global__ void __launch_bounds__(128, 1)
    probe_wgmma(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                Offsets off_a, Offsets off_b, float* c, int shared_words) {
  extern __shared__ unsigned char dynamic_shared[];
  const std::uint32_t tile_a = (shared_address(dynamic_shared) + 1023) & ~1023u, tile_b = tile_a + 64 * K * 2;
  __shared__ std::uint64_t barrier_word;
  const std::uint32_t barrier = shared_address(&barrier_word);
  // Not-a-numbers all around: offsets that lead out of the tiles must not be right by accident.
  for (int i = static_cast<int>(threadIdx.x); i < shared_words; i += 128)
    reinterpret_cast<unsigned*>(dynamic_shared)[i] = 0xffffffff;
  proxy_fence();
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_expect(barrier, (64 + 128) * K * 2);
    tma_load_2d(tile_a, &map_a, barrier, 0, 0);
    tma_load_2d(tile_b, &map_b, barrier, 0, 0);
    if (!TransB) tma_load_2d(tile_b + 64 * K * 2, &map_b, barrier, 64, 0);
  }
  wait_for(barrier, 0, false, 0, 0);
  using LayoutA = OperandLayout<TransA, K>;
  using LayoutB = OperandLayout<!TransB, K>;
  const std::uint64_t a = matrix_descriptor(tile_a, off_a.leading, off_a.stride, LayoutA::swizzle);
  const std::uint64_t b = matrix_descriptor(tile_b, off_b.leading, off_b.stride, LayoutB::swizzle);
  float d[64] = {};
  pin_registers(d);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
    wgmma<128, TransA, !TransB>(d, a + (k * off_a.k16 >> 4), b + (k * off_b.k16 >> 4), k > 0);
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(d);
  store_rows<128>(d, Problem{64, 128, 1, 1, 1, c}, 0, 0);
}

}  // namespace edfcore::hopper
