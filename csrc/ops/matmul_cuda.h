// What the CUDA matmuls share: the problem, the choice of a kernel, and the reading of single elements.
#pragma once

#include "ops/float32_matmul.h"
#include "ops/matmul_end_cuda.h"

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
  std::int64_t tiles, tiles_n;
  bool wide_a, wide_b;                 // rows can be read 16 bytes at a time
  bool pairs;                          // two neighbours of the result, and of plus, are accessed as one
  std::int64_t batch, step_a, step_b;  // from one product's operands to the next's; 0 for one they share
  std::int64_t first_of_batch;         // which product the first block along z makes
  End<T> end;
  ColumnSums<T> columns;
};

// Where a block of a kernel stands whose tiles are M by N: its tile, its part of k, and its product of the
// batch.
template <class Tile>
struct BlockPlace {
  std::int64_t m0, n0, k_begin, k_end, nth;

  template <class T>
  __device__ explicit BlockPlace(const Problem<T>& p) {
    const Division at = divide(static_cast<std::int64_t>(blockIdx.x), p.tiles_n);
    m0 = at.quotient * Tile::M;
    n0 = at.remainder * Tile::N;
    k_begin = static_cast<std::int64_t>(blockIdx.y) * p.k_per_split;
    k_end = k_begin + p.k_per_split < p.k ? k_begin + p.k_per_split : p.k;
    nth = p.first_of_batch + static_cast<std::int64_t>(blockIdx.z);
  }
};

// A thread's walk over the tiles of an operand along k, K at a time. `Side` is a tile's extent along m or n;
// `Along` says that the operand's rows run along k; else they run along m or n.
template <class T, int Side, int K, bool Along>
struct TileWalk {
  const T* from;  // the thread's place in the next tile
  std::int64_t step_outer, step_tile;
  int own_k, sides_left;  // its place along k; how much of the operand lies beyond its place along m or n

  // The thread begins in row `outer` of the tile, at `inner`, and goes on `outer_step` rows later.
  __device__ TileWalk(const T* x, std::int64_t side0, std::int64_t sides, std::int64_t k0,
                      std::int64_t stride, int outer, int inner, int outer_step) {
    const std::int64_t at_side = side0 + (Along ? outer : inner), left = sides - at_side;
    own_k = Along ? inner : outer;
    sides_left = left < Side ? static_cast<int>(left) : Side;
    from = x + (Along ? at_side * stride + k0 + own_k : (k0 + own_k) * stride + at_side);
    step_outer = outer_step * stride;
    step_tile = Along ? K : K * stride;
  }

  // Of a tile with `depth` along k in the operand: how many elements lie there from the thread's place on,
  // `rows` rows further.
  __device__ int left(int depth, int rows) const {
    const int k_left = depth - own_k;
    return Along ? (rows < sides_left ? k_left : 0) : (rows < k_left ? sides_left : 0);
  }
};

// Which kernel multiplies, by the type, the chip and the shape: tiles of multiply-adds, tiles by tensor
// cores, or an element for each thread. All but `simple` split k where there are few tiles (matmul_splits).
// Few columns or rows are 16 at most; what has those, or fewer than 16 terms, is too small for tensor cores
// unless there is nothing else; large is what fills 128 tiles of 128 x 128.
//
//                                  few columns   few rows   < 16 terms        else     large
//   float64                        tall          flat       medium            medium   medium
//   float32 by multiply-adds       tall          flat       medium or large   medium   large
//   float32 by tensor cores        tall          flat       medium or large   tensor   large_tensor
//   16 bits, by tensor cores       tensor        tensor     tensor            tensor   large_tensor
//   16 bits without                simple        simple     simple            simple   simple
enum class MatmulKernel { tall, flat, medium, large, tensor, large_tensor, simple };

constexpr bool by_multiply_adds(MatmulKernel kernel) { return kernel <= MatmulKernel::large; }

constexpr MatmulKernel choose_matmul(std::int64_t element_size, bool tensor_cores, std::int64_t m,
                                     std::int64_t n, std::int64_t k, std::int64_t batch) {
  const bool few_columns = n <= ending_columns, few_rows = m <= 16, small = few_columns || few_rows || k < 16;
  const bool large = ((m + 127) / 128) * ((n + 127) / 128) * batch >= 128;
  if (element_size == 2 && !tensor_cores) return MatmulKernel::simple;
  if (tensor_cores && (element_size == 2 || !small))
    return large && !small ? MatmulKernel::large_tensor : MatmulKernel::tensor;
  if (few_columns) return MatmulKernel::tall;
  if (few_rows) return MatmulKernel::flat;
  return large && element_size == 4 ? MatmulKernel::large : MatmulKernel::medium;
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
  for (p.first_of_batch = 0; p.first_of_batch < p.batch; p.first_of_batch += most) {
    const std::int64_t left = p.batch - p.first_of_batch;
    run(p, static_cast<unsigned>(left < most ? left : most));
  }
}

}  // namespace edfcore::cuda
