// Words for tensor cores, which a warp says as one, and for copies that go on by themselves: inline PTX under
// nvcc, C++ on the simulated device. They need compute capability 8.0 (load_matrices 7.5), and what calls
// them is to be compiled for that alone. Layouts are those of the PTX ISA, sections "mma.m16n8k8",
// "mma.m16n8k16" and "ldmatrix".
//
//   mma_tf32, mma_bf16, mma_f16(d, a, b0, b1)   d (16 x 8 floats) += a (16 x 8 words) b (8 words x 8)
//   to_tf32(x)                                  x with 11 bits of precision, half away from zero, as a word
//   load_matrices<Transposed>(r, row)           four matrices of 8 rows of 16 bytes in shared memory; lane l
//                                               says where row l % 8 of matrix l / 8 is
//   copy_async<Bytes>(shared, global, valid)    4 or 16 bytes; those beyond the first `valid` are 0, not read
//   copy_async_commit()                         ends a group of copies of this thread
//   copy_async_wait<Newest>()                   until all but the newest groups are there, for this thread
//
// A word is one element of TF32, whose low 13 bits count for nothing, or two of 16 bits along k, the first
// one low. Lane 4 g + t holds of `a` words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); of `b` words
// (t, g), (t + 4, g); of `d` elements (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
#pragma once

#include "device/launch.h"

#if defined(EDFCORE_SIM)
#include "device/sim/matrix.h"
#else

namespace edfcore {

#define EDF_MMA(name, shape, type)                                                                      \
  __device__ __forceinline__ void name(float(&d)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                                \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                 \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                       \
  }
EDF_MMA(mma_tf32, "m16n8k8", "tf32")
EDF_MMA(mma_bf16, "m16n8k16", "bf16")
EDF_MMA(mma_f16, "m16n8k16", "f16")
#undef EDF_MMA

__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
  return word;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

template <bool Transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t at = shared_address(row);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  static_assert(Bytes == 4 || Bytes == 16);
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid)
                 : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int Newest>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" : : "n"(Newest) : "memory");
}

}  // namespace edfcore

#endif
