// What a program needs that checks and times a matmul by itself: device memory, random data, float64
// references, errors, times, tensor maps.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace edfcore::hopper {

// A failed call ends the process with this status: after an error in a kernel nothing more can be done in it.
constexpr int device_lost = 3;
inline void (*on_device_error)() = nullptr;
inline void check(cudaError_t e, const char* call, int line) {
  if (e == cudaSuccess) return;
  std::printf("{\"row\": \"error\", \"call\": \"%s\", \"line\": %d, \"error\": \"%s\"}\n", call, line,
              cudaGetErrorString(e));
  if (on_device_error != nullptr) on_device_error();
  std::fflush(stdout);
  std::_Exit(device_lost);
}
#define EDF_CUDA(call) ::edfcore::hopper::check((call), #call, __LINE__)

template <class T>
struct DeviceArray {
  T* data = nullptr;
  explicit DeviceArray(std::size_t count) { EDF_CUDA(cudaMalloc(&data, count * sizeof(T))); }
  ~DeviceArray() { cudaFree(data); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
};

inline unsigned blocks_of(std::int64_t count, int threads = 256) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

__device__ inline std::uint32_t mix(std::uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Standard normal numbers. `rounded`: to bf16, so that their bf16 product has no error but its own.
static __global__ void fill_normal(float* x, std::int64_t count, std::uint32_t seed, bool rounded) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const std::uint32_t u = mix(static_cast<std::uint32_t>(i) * 2 + mix(seed)), v = mix(u + 0x9e3779b9u);
  const float radius = sqrtf(-2.0f * logf((static_cast<float>(u >> 8) + 0.5f) * 0x1p-24f));
  const float value = radius * cospif(2.0f * static_cast<float>(v >> 8) * 0x1p-24f);
  x[i] = rounded ? __bfloat162float(__float2bfloat16_rn(value)) : value;
}

// One thread per element, one chain of multiply-adds: float64 is the reference, float32 what SIMT code gets.
template <class T>
__global__ void naive_matmul(const float* a, const float* b, T* c, int m, int n, int k, bool trans_a,
                             bool trans_b) {
  const int col = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = static_cast<int>(blockIdx.y);
  if (col >= n) return;
  const std::int64_t step_a = trans_a ? m : 1, step_b = trans_b ? 1 : n;
  a += trans_a ? row : static_cast<std::int64_t>(row) * k;
  b += trans_b ? static_cast<std::int64_t>(col) * k : col;
  T sum = 0;
  for (int i = 0; i < k; ++i) sum = fma(static_cast<T>(a[i * step_a]), static_cast<T>(b[i * step_b]), sum);
  c[static_cast<std::int64_t>(row) * n + col] = sum;
}

// out[0] += |x - y|^2, out[1] += |y|^2.
static __global__ void add_squares(const float* x, const double* y, std::int64_t count, double* out) {
  double difference = 0, norm = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    norm += y[i] * y[i];
  }
  for (int lane = 16; lane > 0; lane /= 2) {
    difference += __shfl_xor_sync(0xffffffff, difference, lane);
    norm += __shfl_xor_sync(0xffffffff, norm, lane);
  }
  if (threadIdx.x % 32 != 0) return;
  atomicAdd(out, difference);
  atomicAdd(out + 1, norm);
}

static __global__ void count_different(const unsigned* x, const unsigned* y, unsigned constant,
                                       std::int64_t count, unsigned* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count && x[i] != (y != nullptr ? y[i] : constant)) atomicAdd(out, 1u);
}

// Relative error in the Frobenius norm.
inline double relative_error(const float* x, const double* y, std::int64_t count) {
  DeviceArray<double> sums(2);
  EDF_CUDA(cudaMemset(sums.data, 0, 16));
  add_squares<<<std::min(blocks_of(count), 1024u), 256>>>(x, y, count, sums.data);
  double host[2];
  EDF_CUDA(cudaMemcpy(host, sums.data, 16, cudaMemcpyDeviceToHost));
  return std::sqrt(host[0] / host[1]);
}

// How many words of x differ from those of y or, without y, from a constant.
inline unsigned different(const float* x, const float* y, unsigned constant, std::int64_t count) {
  DeviceArray<unsigned> sum(1);
  EDF_CUDA(cudaMemset(sum.data, 0, 4));
  count_different<<<blocks_of(count), 256>>>(reinterpret_cast<const unsigned*>(x),
                                             reinterpret_cast<const unsigned*>(y), constant, count, sum.data);
  unsigned host;
  EDF_CUDA(cudaMemcpy(&host, sum.data, 4, cudaMemcpyDeviceToHost));
  return host;
}

// Median microseconds of `run`, and the least. Short kernels are timed several to a sample, back to back.
struct Times {
  double median, least;
};
template <class Run>
Times time_runs(const Run& run, int samples) {
  cudaEvent_t from, to;
  EDF_CUDA(cudaEventCreate(&from));
  EDF_CUDA(cudaEventCreate(&to));
  const auto sample = [&](int count) {
    EDF_CUDA(cudaEventRecord(from));
    for (int i = 0; i < count; ++i) run();
    EDF_CUDA(cudaEventRecord(to));
    EDF_CUDA(cudaEventSynchronize(to));
    float ms;
    EDF_CUDA(cudaEventElapsedTime(&ms, from, to));
    return 1e3 * ms / count;
  };
  sample(3);
  const int count = static_cast<int>(std::clamp(300.0 / sample(3), 1.0, 50.0));
  std::vector<double> us;
  for (int i = 0; i < samples; ++i) us.push_back(sample(count));
  std::sort(us.begin(), us.end());
  EDF_CUDA(cudaEventDestroy(from));
  EDF_CUDA(cudaEventDestroy(to));
  return {us[us.size() / 2], us[0]};
}

// The driver's encoder of tensor maps, found at run time: the program does not link to libcuda.
inline auto tensor_map_encoder() {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    EDF_CUDA(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
      check(cudaErrorNotSupported, "cuTensorMapEncodeTiled", __LINE__);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return encode;
}

// A map of `planes` row-major matrices of `outer` rows of `inner` bf16 that lie one behind the other, read in
// boxes of box_outer by box_inner. Rows begin at multiples of 16 bytes. 0 planes: a map of two dimensions.
inline CUtensorMap tensor_map(const __nv_bfloat16* x, int inner, int outer, int planes, int box_inner,
                              int box_outer, CUtensorMapSwizzle swizzle) {
  CUtensorMap map;
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(inner), static_cast<cuuint64_t>(outer),
                              static_cast<cuuint64_t>(planes)};
  const cuuint64_t strides[2] = {dims[0] * 2, dims[0] * dims[1] * 2};  // of all but the innermost, in bytes
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_inner), static_cast<cuuint32_t>(box_outer), 1};
  const cuuint32_t each[3] = {1, 1, 1};
  const CUresult r = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, planes == 0 ? 2 : 3, const_cast<__nv_bfloat16*>(x), dims,
      strides, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) {
    std::printf("{\"row\": \"error\", \"call\": \"cuTensorMapEncodeTiled\", \"code\": %d}\n",
                static_cast<int>(r));
    check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled", __LINE__);
  }
  return map;
}

inline double seconds_since_start() {
  static const auto start = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace edfcore::hopper
