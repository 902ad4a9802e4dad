// What the CUDA matmuls share: the problem, the choice of a kernel, and the reading of single elements.
#pragma once

#include "ops/float32_matmul.h"
#include "ops/kernel_cuda.h"

#include "core/half.h"  // after EDF_HD

namespace edfcore::cuda {

template <class T>
struct Problem {
  std::int64_t m, n, k;
  const T* a;              // (m, k), or (k, m) to be transposed
  const T* b;              // (k, n), or (n, k) to be transposed
  const T* plus;           // what is added to the product, or null: a row (n,) for all rows, or one like c
  std::int64_t plus_step;  // from one row to the next: 0 or n
  T* c;                    // (m, n)
  std::conditional_t<sizeof(T) == 8, double, float>* parts;  // one such for each split, or null for one
  std::int64_t k_per_split;
  std::int64_t tiles_n;
  bool wide_a, wide_b;                 // rows can be read 16 bytes at a time
  bool pairs;                          // two neighbours of the result, and of plus, are accessed as one
  std::int64_t batch, step_a, step_b;  // from one product's operands to the next's; 0 for one they share
};

// Which kernel multiplies, by the type, the chip and the shape. All but `simple` split k alike. A product is
// small where it has 16 rows or columns at most, or fewer than 16 terms, and large where it fills 128 tiles
// of 128 x 128.
//
//                                         small    else     large
//   float64, float32 by multiply-adds     simt     simt     simt
//   float32 by tensor cores               simt     small    large
//   16 bits, by tensor cores              small    small    large
//   16 bits without                       simple   simple   simple
enum class MatmulKernel { simt, simple, small, large };

constexpr bool fills_large_tiles(std::int64_t m, std::int64_t n, std::int64_t batch) {
  return ((m + 127) / 128) * ((n + 127) / 128) * batch >= 128;
}

constexpr MatmulKernel choose_matmul(std::int64_t element_size, bool tensor_cores, std::int64_t m,
                                     std::int64_t n, std::int64_t k, std::int64_t batch) {
  const bool small = m <= 16 || n <= 16 || k < 16;
  if (element_size > 2 && (small || !tensor_cores)) return MatmulKernel::simt;
  if (!tensor_cores) return MatmulKernel::simple;
  return fills_large_tiles(m, n, batch) && !small ? MatmulKernel::large : MatmulKernel::small;
}

// Whether the code of the kernels in matmul_mma.cu, as it runs on the current device, may use tensor cores.
bool has_tensor_cores();

// The products of one launch by tensor cores (or `simple`), for each of `splits` parts of k. `how` is of
// float32 alone.
void tensor_product(const Launch& l, const Problem<float>& p, bool trans_a, bool trans_b, std::int64_t splits,
                    MatmulKernel kernel, Float32Matmul how);
void tensor_product(const Launch& l, const Problem<BFloat16>& p, bool trans_a, bool trans_b,
                    std::int64_t splits, MatmulKernel kernel, Float32Matmul how);
void tensor_product(const Launch& l, const Problem<Float16>& p, bool trans_a, bool trans_b,
                    std::int64_t splits, MatmulKernel kernel, Float32Matmul how);

// Calls run(problem, blocks along z) for as many products at a time as a grid takes.
template <class T, class Run>
void for_batches(Problem<T> p, const Run& run) {
  constexpr std::int64_t most = 65535;
  for (std::int64_t left = p.batch; left > 0; left -= most) {
    run(p, static_cast<unsigned>(left < most ? left : most));
    p.a += most * p.step_a;
    p.b += most * p.step_b;
    p.c += most * p.m * p.n;  // more than that many are not split
    if (p.plus != nullptr) p.plus += most * p.m * p.plus_step;
  }
}

}  // namespace edfcore::cuda
