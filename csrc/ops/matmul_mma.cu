// Launches of the matmul by tensor cores, and of one by single multiply-adds for elements of 16 bits on chips
// whose tensor cores are not used.
#include <atomic>

#include "ops/matmul_mma_cuda.h"

namespace edfcore::cuda {

namespace {

// One thread computes one element.
template <class T>
__global__ void __launch_bounds__(block_threads) matmul_simple(Problem<T> p, bool trans_a, bool trans_b) {
  const std::int64_t i = thread_number();
  if (i >= p.m * p.n) return;
  const Division at = divide(i, p.n);
  const std::int64_t row = at.quotient, col = at.remainder;
  const std::int64_t nth = p.first_of_batch + static_cast<std::int64_t>(blockIdx.z);
  const T* a = p.a + nth * p.step_a + row * (trans_a ? 1 : p.k);
  const T* b = p.b + nth * p.step_b + col * (trans_b ? p.k : 1);
  Results<T>(p, 0, nth).put(row, col, plain_product(a, trans_a ? p.m : 1, b, trans_b ? 1 : p.n, p.k));
}

template <class Tile, bool TransA, bool TransB, bool Parts, class T>
void launch_tensor(const Launch& l, Problem<T> p, std::int64_t splits) {
  constexpr int bytes = Tile::stages * static_cast<int>(sizeof(T)) *
                        (AsyncLoader<T, Tile::M, !TransA>::size + AsyncLoader<T, Tile::N, TransB>::size);
  const auto kernel = matmul_tensor<Tile, TransA, TransB, Parts, T>;
  if (bytes > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  p.tiles_n = (p.n + Tile::N - 1) / Tile::N;
  const auto tiles = static_cast<unsigned>((p.m + Tile::M - 1) / Tile::M * p.tiles_n);
  for_batches(p, [&](const Problem<T>& some, unsigned batch) {
    launch(kernel, dim3(tiles, static_cast<unsigned>(splits), batch), block_threads, bytes, l.stream, some);
  });
}

template <class Tile, bool Parts, class T>
void launch_layout(const Launch& l, const Problem<T>& p, bool trans_a, bool trans_b, std::int64_t splits) {
  if (trans_a)
    trans_b ? launch_tensor<Tile, true, true, Parts>(l, p, splits)
            : launch_tensor<Tile, true, false, Parts>(l, p, splits);
  else
    trans_b ? launch_tensor<Tile, false, true, Parts>(l, p, splits)
            : launch_tensor<Tile, false, false, Parts>(l, p, splits);
}

template <bool Parts, class T>
void launch_tiling(const Launch& l, const Problem<T>& p, bool trans_a, bool trans_b, std::int64_t splits,
                   MatmulKernel kernel) {
  if (kernel == MatmulKernel::large_tensor)
    launch_layout<LargeTensorTiling, Parts>(l, p, trans_a, trans_b, splits);
  else
    launch_layout<SmallTensorTiling, Parts>(l, p, trans_a, trans_b, splits);
}

template <class T>
void half_product(const Launch& l, const Problem<T>& p, bool trans_a, bool trans_b, std::int64_t splits,
                  MatmulKernel kernel) {
  if (kernel != MatmulKernel::simple) return launch_tiling<false>(l, p, trans_a, trans_b, splits, kernel);
  for_batches(p, [&](const Problem<T>& some, unsigned batch) {
    const dim3 blocks = blocks_for(p.m * p.n, block_threads);
    launch(matmul_simple<T>, dim3(blocks.x, 1, batch), block_threads, 0, l.stream, some, trans_a, trans_b);
  });
}

}  // namespace

// The kernels are empty where their code was compiled for an older architecture, whatever the device.
bool has_tensor_cores() {
  constexpr int most = 16;
  static std::atomic<int> known[most];  // 0: not yet
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= most) return false;
  int found = known[device].load(std::memory_order_relaxed);
  if (found == 0) {
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, matmul_tensor<SmallTensorTiling, false, false, false, float>) !=
        cudaSuccess)
      return false;
    found = attributes.ptxVersion;
    known[device].store(found, std::memory_order_relaxed);
  }
  return found >= 80;
}

void tensor_product(const Launch& l, const Problem<float>& p, bool trans_a, bool trans_b, std::int64_t splits,
                    MatmulKernel kernel, Float32Matmul how) {
  if (how == Float32Matmul::high)
    launch_tiling<true>(l, p, trans_a, trans_b, splits, kernel);
  else
    launch_tiling<false>(l, p, trans_a, trans_b, splits, kernel);
}

void tensor_product(const Launch& l, const Problem<BFloat16>& p, bool trans_a, bool trans_b,
                    std::int64_t splits, MatmulKernel kernel, Float32Matmul) {
  half_product(l, p, trans_a, trans_b, splits, kernel);
}

void tensor_product(const Launch& l, const Problem<Float16>& p, bool trans_a, bool trans_b,
                    std::int64_t splits, MatmulKernel kernel, Float32Matmul) {
  half_product(l, p, trans_a, trans_b, splits, kernel);
}

}  // namespace edfcore::cuda
