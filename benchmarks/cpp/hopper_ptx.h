// The instructions of Hopper (sm_90a) that its matmul needs and CUDA C++ has no words for: the bulk tensor
// copy (TMA), mbarriers, and the asynchronous multiplication of a warpgroup (wgmma). Each wrapper is one
// instruction. Facts in the comments are from the PTX ISA, under the name in quotes; "CuTe" is the header
// cute/atom/mma_traits_sm90_gmma.hpp of CUTLASS, which states the same layouts in strides.
//
// Addresses are those of shared memory: 32 bits, in bytes.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace edfcore::hopper {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// ---- mbarrier: counts arrivals of threads and bytes of copies; when both are complete, its phase flips ----

__device__ __forceinline__ void mbarrier_init(std::uint32_t barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes freshly initialised barriers known to the copy engine, before the __syncthreads that shows them to
// the other threads.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// One arrival, and `bytes` more for the current phase to wait for.
__device__ __forceinline__ void mbarrier_expect(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Whether the phase of this parity is over. The hardware may suspend the thread for a while before it answers
// no. The phase before the first one counts as over and has parity 1.
__device__ __forceinline__ bool mbarrier_try_wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(over)
      : "r"(barrier), "r"(parity)
      : "memory");
  return over != 0;
}

__device__ __forceinline__ void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

// ---- TMA ----

// A box of a tensor map to shared memory. x counts along the innermost dimension. What lies outside the
// tensor arrives as zeros and counts as bytes like the rest, so a barrier always waits for whole boxes.
__device__ __forceinline__ void tma_load_2d(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                            int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

__device__ __forceinline__ void tma_load_3d(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                            int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Ordinary writes to shared memory before this are seen by the copy engine and the tensor cores after it.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers of a warpgroup ----

template <int Registers>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// ---- wgmma ----

// "Matrix descriptor format": start address, leading byte offset and stride byte offset, each without its
// lower 4 bits, in bits 0-13, 16-29 and 32-45; base offset in bits 49-51, 0 where the pattern of the swizzle
// starts at a multiple of its size (1024 bytes for 128-byte rows, 512 for 64-byte rows); swizzle in bits
// 62-63: 0 none, 1 128-byte, 2 64-byte, 3 32-byte.
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t address, std::uint32_t leading,
                                                           std::uint32_t stride, std::uint32_t swizzle) {
  const std::uint32_t low = (address >> 4 & 0x3fff) | leading >> 4 << 16;
  const std::uint32_t high = stride >> 4 | swizzle << 30;
  return static_cast<std::uint64_t>(high) << 32 | low;
}

// How the tile of a bf16 operand lies in shared memory, `K` of it along k: what TMA must write and what a
// descriptor says of it. The one place for these constants.
//
// K-major (rows run along k): a row of K elements is one row of the swizzle, 64 or 128 bytes. 8 rows make an
// atom, and "stride dimension byte offset" is from 8 rows to the next 8. The leading offset is unused and
// taken to be 1 (in units of 16 bytes). 16 further along k are 32 bytes further inside the row: the swizzle
// is a function of address bits (bits 4-6 exclusive-or bits 7-9; for 64 bytes, 4-5 and 7-8), so the start
// address may move inside an atom.
//
// MN-major (rows run along m or n): a row of the swizzle is 64 elements along m or n, 8 of them, one for each
// k, make an atom of 64 x 8. "Stride dimension byte offset" is from 8 k to the next 8, and "leading dimension
// byte offset" from 64 along m or n to the next 64; CuTe has the same as
// ((T,8,m),(8,k)):((1,T,LBO),(8T,SBO)). TMA writes boxes of 64 x K, so the next 64 are K rows on, and 16
// further along k are 16 rows on. (Without swizzle the two offsets mean other things.)
template <bool MnMajor, int K>
struct OperandLayout {
  static_assert(K == 32 || K == 64);
  static constexpr int row_bytes = MnMajor ? 128 : 2 * K;
  static constexpr int stride = 8 * row_bytes;
  static constexpr int leading = MnMajor ? K * row_bytes : 16;
  static constexpr int k16 = MnMajor ? 16 * row_bytes : 32;
  static constexpr int swizzle = row_bytes == 128 ? 1 : 2;
  static constexpr CUtensorMapSwizzle map_swizzle =
      row_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;

  __device__ static std::uint64_t descriptor(std::uint32_t address) {
    return matrix_descriptor(address, leading, stride, swizzle);
  }
};

// Before the first wgmma and wherever other instructions have touched the accumulator.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most `Left` of the groups committed last are unfinished.
template <int Left>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

// The compiler does not know that wgmma writes its accumulator later than it says; this keeps it from moving
// other uses of it across a wait.
template <int Count>
__device__ __forceinline__ void pin_registers(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define EDF_WGMMA_OUT8(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define EDF_WGMMA_OUT32(i) \
  EDF_WGMMA_OUT8(i), EDF_WGMMA_OUT8(i + 8), EDF_WGMMA_OUT8(i + 16), EDF_WGMMA_OUT8(i + 24)
#define EDF_WGMMA_OUT64 EDF_WGMMA_OUT32(0), EDF_WGMMA_OUT32(32)
#define EDF_WGMMA_OUT96 EDF_WGMMA_OUT64, EDF_WGMMA_OUT32(64)
#define EDF_WGMMA_OUT128 EDF_WGMMA_OUT96, EDF_WGMMA_OUT32(96)
// clang-format off
#define EDF_WGMMA_IN0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define EDF_WGMMA_IN1 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define EDF_WGMMA_IN2 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define EDF_WGMMA_IN3 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, " \
    "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on
#define EDF_WGMMA(shape, in, out, a_at, b_at, add_at, tnsp_a_at, tnsp_b_at)                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_at                                       \
               ", 0;\n"                                                                         \
               "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" in "}, " a_at ", " b_at \
               ", p, 1, 1, " tnsp_a_at ", " tnsp_b_at ";\n}"                                    \
               : out                                                                            \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(TnspA)),      \
                 "n"(static_cast<int>(TnspB)))

// D = A B, or D += A B: 64 x N, 16 along k, by the 128 threads of a warpgroup. TnspA and TnspB say that the
// operand is MN-major. Of D a thread holds, for i < N / 8, at d[4 i + 2 h + e] the element of row
// 16 warp + lane / 4 + 8 h and column 8 i + 2 (lane % 4) + e ("Register fragments for wgmma .m64nNk16").
template <int N, bool TnspA, bool TnspB>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(N == 128 || N == 192 || N == 256);
  if constexpr (N == 128)
    EDF_WGMMA("m64n128k16", EDF_WGMMA_IN0 ", " EDF_WGMMA_IN1, EDF_WGMMA_OUT64, "%64", "%65", "%66", "%67",
              "%68");
  else if constexpr (N == 192)
    EDF_WGMMA("m64n192k16", EDF_WGMMA_IN0 ", " EDF_WGMMA_IN1 ", " EDF_WGMMA_IN2, EDF_WGMMA_OUT96, "%96",
              "%97", "%98", "%99", "%100");
  else
    EDF_WGMMA("m64n256k16", EDF_WGMMA_IN0 ", " EDF_WGMMA_IN1 ", " EDF_WGMMA_IN2 ", " EDF_WGMMA_IN3,
              EDF_WGMMA_OUT128, "%128", "%129", "%130", "%131", "%132");
}

#undef EDF_WGMMA
#undef EDF_WGMMA_OUT8
#undef EDF_WGMMA_OUT32
#undef EDF_WGMMA_OUT64
#undef EDF_WGMMA_OUT96
#undef EDF_WGMMA_OUT128
#undef EDF_WGMMA_IN0
#undef EDF_WGMMA_IN1
#undef EDF_WGMMA_IN2
#undef EDF_WGMMA_IN3

}  // namespace edfcore::hopper
