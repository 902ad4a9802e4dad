// Decides between tilings of the SIMT matmul on hardware, before the engine takes one: checks and times those
// of simt_kernel.h, what the table of simt_plan.h chooses among them, and the engine's own kernel, at the
// shapes of training steps and at squares in all layouts. From the root of the repository:
//
//   nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -split-compile=0 -fmad=false
//     -DEDF_ISA=cuda -Icsrc -o simt_matmul benchmarks/cpp/simt_matmul.cu
//   simt_matmul [SECONDS]           60, if not given; what is left out then is missing in the summary
//
// One JSON object per line: a row "time" for each shape and variant ("engine", "table", or a tiling and its
// splits of k), and last a row "summary". `error` is the largest difference from one chain of multiply-adds,
// relative to the largest element; a variant that is such a chain itself must equal it in every bit. The
// status is 1 where a result was wrong or a launch failed, and 3 after an error that the device does not
// survive.
#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "graph_timer.h"
#include "hopper_harness.h"
#include "ops/matmul.cu"  // the engine's
#include "simt_plan.h"

// What the engine's matmul.cu asks of files that are not compiled here: products are exact, and of float32.
namespace edfcore {

Float32Matmul float32_matmul() { return Float32Matmul::exact; }

namespace cuda {

bool has_tensor_cores() { return false; }
void tensor_product(const Launch&, const Problem<float>&, bool, bool, std::int64_t, MatmulKernel,
                    Float32Matmul) {}
void tensor_product(const Launch&, const Problem<BFloat16>&, bool, bool, std::int64_t, MatmulKernel,
                    Float32Matmul) {}
void tensor_product(const Launch&, const Problem<Float16>&, bool, bool, std::int64_t, MatmulKernel,
                    Float32Matmul) {}

}  // namespace cuda
}  // namespace edfcore

namespace {

using namespace edfcore;
using hopper::blocks_of;
using hopper::DeviceArray;
using hopper::seconds_since_start;

// ---- what is right ----

// One chain for each element, in the order of k; shares nothing with the kernels that it judges.
__global__ void __launch_bounds__(1024) chain(const float* a, const float* b, float* c, std::int64_t m,
                                              std::int64_t n, std::int64_t k, bool trans_a, bool trans_b) {
  __shared__ float tile_a[32][33], tile_b[32][33];  // [k][m], [k][n]
  const unsigned x = threadIdx.x, y = threadIdx.y;
  const std::int64_t m0 = blockIdx.y * 32ll, n0 = blockIdx.x * 32ll;
  float sum = 0;
  for (std::int64_t k0 = 0; k0 < k; k0 += 32) {
    if (trans_a)
      tile_a[y][x] = k0 + y < k && m0 + x < m ? a[(k0 + y) * m + m0 + x] : 0;
    else
      tile_a[x][y] = m0 + y < m && k0 + x < k ? a[(m0 + y) * k + k0 + x] : 0;
    if (trans_b)
      tile_b[x][y] = n0 + y < n && k0 + x < k ? b[(n0 + y) * k + k0 + x] : 0;
    else
      tile_b[y][x] = k0 + y < k && n0 + x < n ? b[(k0 + y) * n + n0 + x] : 0;
    __syncthreads();
    for (int i = 0; i < 32; ++i) sum = fmaf(tile_a[i][y], tile_b[i][x], sum);
    __syncthreads();
  }
  if (m0 + y < m && n0 + x < n) c[(m0 + y) * n + n0 + x] = sum;
}

struct Difference {
  float largest, largest_right;
  unsigned long long unequal, not_finite;
};

// What is not negative has the order of its bits.
__device__ void raise(float* most, float x) { atomicMax(reinterpret_cast<int*>(most), __float_as_int(x)); }

__global__ void compare(const float* x, const float* right, std::int64_t count, Difference* d) {
  const std::int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= count) return;
  const float difference = fabsf(x[i] - right[i]);
  if (!(difference < 1e30f))
    atomicAdd(&d->not_finite, 1ull);
  else if (difference > 0)
    raise(&d->largest, difference);
  raise(&d->largest_right, fabsf(right[i]));
  if (x[i] != right[i]) atomicAdd(&d->unequal, 1ull);
}

// ---- what is measured ----

enum Set { big = 1, mid = 2, skinny = 4, huge = 8 };  // kinds of shapes

using RunTiling = void (*)(const Launch&, bool, bool, std::int64_t, float*);
struct Variant {
  const char* name;
  int m, n, slices, sets;
  RunTiling run;
};

template <class Tile>
void run_tiling(const Launch& l, bool trans_a, bool trans_b, std::int64_t splits, float* parts) {
  const auto p = simt::problem<float>(l, trans_a, nullptr, parts, splits);
  simt::launch_tiles<Tile>(l, p, trans_a, trans_b, splits);
  if (splits > 1) simt::sum_parts<float>(l, p, nullptr, splits);
}

#define TILING(sets, M, N, K, WM, WN, TM, TN, STAGES, SLICES, BLOCKS)                                 \
  {#M "x" #N "x" #K " warp " #WM "x" #WN " thread " #TM "x" #TN " stages " #STAGES " slices " #SLICES \
      " blocks " #BLOCKS,                                                                             \
   M,                                                                                                 \
   N,                                                                                                 \
   SLICES,                                                                                            \
   sets,                                                                                              \
   run_tiling<simt::Tiling<M, N, K, WM, WN, TM, TN, STAGES, SLICES, BLOCKS>>}

// clang-format off
constexpr Variant variants[] = {
    //                          M    N   K  WM  WN  TM TN stages slices blocks
    TILING(big | mid | huge,  128, 128,  8, 64, 64, 16, 8, 3, 1, 2),
    TILING(big | huge,        128, 128,  8, 64, 64, 16, 8, 4, 1, 2),
    TILING(big | mid | huge,  128, 128,  8, 64, 32,  8, 8, 3, 1, 2),
    TILING(big | huge,        256, 128,  8, 64, 64, 16, 8, 3, 1, 1),
    TILING(big | huge,        128, 256,  8, 64, 64, 16, 8, 3, 1, 1),
    TILING(big | mid,         128,  64,  8, 64, 32,  8, 8, 4, 1, 3),
    TILING(big | mid,          64, 128,  8, 32, 64,  8, 8, 4, 1, 3),
    TILING(big | mid,         128,  64, 16, 64, 64, 16, 8, 3, 2, 2),
    TILING(mid | skinny,       64,  64, 16, 32, 32,  8, 4, 3, 2, 2),
    TILING(mid,                64,  64, 16, 32, 32,  8, 4, 3, 1, 4),
    TILING(mid | skinny,       32,  32, 16, 32, 32,  8, 4, 3, 4, 4),
    TILING(skinny,            128,  16, 16, 16, 16,  4, 2, 3, 1, 1),
    TILING(skinny,             64,  16, 32, 32, 16,  4, 4, 3, 4, 2),
    TILING(skinny,             16, 128, 16, 16, 16,  2, 4, 3, 1, 1),
};
// clang-format on

struct Case {
  std::int64_t m, n, k;
  int layout;  // bit 1: A is transposed, bit 0: B is
  double flop() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
  int kind() const {
    if (flop() > 5e11) return huge;
    if (m <= 16 || n <= 16) return skinny;
    return flop() > 1e10 && m >= 2048 && k >= 1024 ? big : mid | big;
  }
};
constexpr const char* layout_names[] = {"nn", "nt", "tn", "tt"};
constexpr const char* tile_names[] = {"tall", "flat", "medium", "large"};

std::vector<Case> all_cases() {
  std::vector<Case> cases = {{512, 1024, 784, 0},  {512, 1024, 784, 1},  {512, 1024, 784, 2},
                             {512, 1024, 784, 3},  {64, 256, 784, 0},    {256, 1024, 784, 0},
                             {784, 256, 64, 2},    {784, 1024, 256, 2},  {256, 784, 1024, 1},
                             {8192, 1024, 784, 0}, {8192, 784, 1024, 1}, {784, 1024, 8192, 2},
                             {256, 10, 1024, 0},   {8192, 10, 1024, 0},  {1024, 10, 256, 2},
                             {1024, 10, 8192, 2},  {8192, 1024, 10, 1},  {16, 1024, 784, 0}};
  for (const std::int64_t size : {1024, 2048, 4096, 8192})
    for (int layout = 0; layout < 4; ++layout) cases.push_back({size, size, size, layout});
  return cases;
}

// ---- measuring ----

constexpr std::int64_t most_elements = std::int64_t{8192} * 8192, most_parts = std::int64_t{64} << 20;

std::string row;  // that is being measured: how its line begins
constexpr char not_ok[] = "\"us\":null,\"tflops\":null,\"ok\":false";

struct Bench : hopper::GraphTimer {
  DeviceArray<float> a{most_elements}, b{most_elements}, c{most_elements}, right{most_elements};
  DeviceArray<float> parts{most_parts};
  DeviceArray<Difference> difference{1};
  int failures = 0, multiprocessors = 0;
  double seconds = 60;
  bool out_of_time = false;

  Bench() {
    cudaDeviceProp properties;
    EDF_CUDA(cudaGetDeviceProperties(&properties, 0));
    multiprocessors = properties.multiProcessorCount;
    std::printf("{\"row\":\"device\",\"name\":\"%s\",\"multiprocessors\":%d}\n", properties.name,
                multiprocessors);
    hopper::fill_normal<<<blocks_of(most_elements), 256, 0, stream>>>(a.data, most_elements, 1, false);
    hopper::fill_normal<<<blocks_of(most_elements), 256, 0, stream>>>(b.data, most_elements, 2, false);
    EDF_CUDA(cudaGetLastError());
    EDF_CUDA(cudaStreamSynchronize(stream));
  }

  // The median of microseconds. Short calls are timed several to a sample, in a graph, so that the host's
  // part does not count.
  double time(const std::function<void()>& call, bool few) {
    const float first = elapsed(call);
    const int calls = first > 0.3f ? 1 : first > 0.06f ? 5 : 20;
    return median_us(calls, 1, few ? 1 : 3, few ? 5 : 15, [&](int) { call(); });
  }

  // Checks and times one variant, and prints its row. No time where it is wrong.
  std::optional<double> measure(const Case& s, const std::string& name, bool is_chain,
                                const std::function<void()>& call) {
    char numbers[128];
    std::snprintf(numbers, sizeof numbers, "\"m\":%lld,\"n\":%lld,\"k\":%lld,\"layout\":\"%s\"",
                  static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k),
                  layout_names[s.layout]);
    row = std::string("{\"row\":\"time\",") + numbers + ",\"variant\":\"" + name + "\",";
    const std::int64_t size = s.m * s.n;
    EDF_CUDA(cudaMemsetAsync(c.data, 0xff, static_cast<std::size_t>(size) * 4, stream));  // NaN
    EDF_CUDA(cudaMemsetAsync(difference.data, 0, sizeof(Difference), stream));
    call();
    if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) {  // a launch that was refused
      ++failures;
      std::printf("%s%s,\"error\":null,\"cuda\":\"%s\"}\n", row.c_str(), not_ok, cudaGetErrorString(e));
      return std::nullopt;
    }
    compare<<<blocks_of(size), 256, 0, stream>>>(c.data, right.data, size, difference.data);
    EDF_CUDA(cudaGetLastError());
    Difference d;
    EDF_CUDA(cudaMemcpyAsync(&d, difference.data, sizeof d, cudaMemcpyDeviceToHost, stream));
    EDF_CUDA(cudaStreamSynchronize(stream));
    const double error = d.largest_right > 0 ? d.largest / d.largest_right : d.largest;
    if (d.not_finite > 0 || error > 1e-4 || (is_chain && d.unequal > 0)) {
      ++failures;
      std::printf("%s%s,\"error\":%.3g,\"unequal\":%llu,\"not_finite\":%llu}\n", row.c_str(), not_ok, error,
                  d.unequal, d.not_finite);
      return std::nullopt;
    }
    const double us = time(call, s.kind() == huge);
    std::printf("%s\"us\":%.2f,\"tflops\":%.2f,\"ok\":true,\"error\":%.3g}\n", row.c_str(), us,
                s.flop() / us * 1e-6, error);
    return us;
  }

  bool in_time() {
    out_of_time = out_of_time || seconds_since_start() > seconds;
    return !out_of_time;
  }

  std::string measure_all(const Case& s);
};

// Into how many parts k is worth splitting: with one, two and four blocks on every multiprocessor.
std::vector<std::int64_t> splits_for(const Case& s, const Variant& v, int multiprocessors) {
  const std::int64_t tiles = ((s.m + v.m - 1) / v.m) * ((s.n + v.n - 1) / v.n);
  std::vector<std::int64_t> splits;
  if (tiles * 8 >= multiprocessors || s.k <= 256) splits.push_back(1);
  for (const int blocks : {1, 2, 4}) {
    const std::int64_t x = std::min({multiprocessors * blocks / tiles, s.k / 64, std::int64_t{32}});
    if (x >= 2 && x * s.m * s.n <= most_parts && std::find(splits.begin(), splits.end(), x) == splits.end())
      splits.push_back(x);
  }
  return splits;
}

std::string number(std::optional<double> us) {
  char text[32] = "null";
  if (us) std::snprintf(text, sizeof text, "%.2f", *us);
  return text;
}

// Measures a shape; returns its part of the summary.
std::string Bench::measure_all(const Case& s) {
  row.clear();
  const bool trans_a = (s.layout & 2) != 0, trans_b = (s.layout & 1) != 0;
  const std::int64_t dims_a[] = {trans_a ? s.k : s.m, trans_a ? s.m : s.k};
  const std::int64_t dims_b[] = {trans_b ? s.n : s.k, trans_b ? s.k : s.n}, dims_c[] = {s.m, s.n};
  const View in[] = {{a.data, dims_a, 2, DType::f32, s.m * s.k}, {b.data, dims_b, 2, DType::f32, s.n * s.k}};
  const View out[] = {{c.data, dims_c, 2, DType::f32, s.m * s.n}};
  Attrs attrs;
  attrs.trans_a = trans_a;
  attrs.trans_b = trans_b;
  Launch l{};
  l.in = in;
  l.out = out;
  l.n_in = 2;
  l.n_out = 1;
  l.attrs = &attrs;
  l.stream = stream;
  chain<<<dim3(blocks_of(s.n, 32), blocks_of(s.m, 32)), dim3(32, 32), 0, stream>>>(
      a.data, b.data, right.data, s.m, s.n, s.k, trans_a, trans_b);
  EDF_CUDA(cudaGetLastError());
  EDF_CUDA(cudaStreamSynchronize(stream));

  const std::int64_t scratch = cuda::matmul_scratch(s.m, s.n, s.k, 4);
  if (scratch > most_parts * 4) hopper::check(cudaErrorMemoryAllocation, "matmul_scratch", __LINE__);
  l.scratch = scratch > 0 ? parts.data : nullptr;
  const auto engine = measure(s, "engine", scratch == 0, [&] { cuda::matmul_kernel(l); });
  const simt::MatmulPlan plan = simt::matmul_plan(s.m, s.n, s.k);
  if (plan.splits * s.m * s.n > most_parts) hopper::check(cudaErrorMemoryAllocation, "plan", __LINE__);
  l.scratch = plan.splits > 1 ? parts.data : nullptr;
  const auto table = measure(s, "table", plan.splits == 1 && plan.tile != simt::MatmulTile::medium,
                             [&] { simt::product<float>(l, trans_a, trans_b, nullptr); });

  std::string best_name;
  std::optional<double> best;
  for (const Variant& v : variants) {
    if ((v.sets & s.kind()) == 0) continue;
    for (const std::int64_t splits : splits_for(s, v, multiprocessors)) {
      if (!in_time()) break;
      const std::string name = std::string(v.name) + " / " + std::to_string(splits);
      const auto us = measure(s, name, v.slices == 1 && splits == 1,
                              [&] { v.run(l, trans_a, trans_b, splits, parts.data); });
      if (us && (!best || *us < *best)) {
        best = us;
        best_name = name;
      }
    }
  }
  return "{\"m\":" + std::to_string(s.m) + ",\"n\":" + std::to_string(s.n) + ",\"k\":" + std::to_string(s.k) +
         ",\"layout\":\"" + layout_names[s.layout] + "\",\"engine_us\":" + number(engine) + ",\"table\":\"" +
         tile_names[static_cast<int>(plan.tile)] + " / " + std::to_string(plan.splits) +
         "\",\"table_us\":" + number(table) + ",\"best\":\"" + best_name + "\",\"best_us\":" + number(best) +
         "}";
}

}  // namespace

int main(int argc, char** argv) {
  seconds_since_start();
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
  Bench bench;
  hopper::on_device_error = [] {
    if (!row.empty()) std::printf("%s%s,\"error\":null}\n", row.c_str(), not_ok);
  };
  if (argc > 1) bench.seconds = std::atof(argv[1]);
  std::string shapes;
  for (const Case& s : all_cases())
    if (bench.in_time()) shapes += (shapes.empty() ? "" : ",") + bench.measure_all(s);
  std::printf("{\"row\":\"summary\",\"seconds\":%.1f,\"complete\":%s,\"failures\":%d,\"shapes\":[%s]}\n",
              seconds_since_start(), bench.out_of_time ? "false" : "true", bench.failures, shapes.c_str());
  return bench.failures > 0 ? 1 : 0;
}
