// Measures what the GPU itself gives: bandwidth, arithmetic, and the cost of launches, barriers and round
// trips. Our kernels are judged by these figures, and plans for small networks are made with them. One JSON
// object goes to stdout, progress to stderr. Alone, without the engine:
//   nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -o limits benchmarks/cpp/limits.cu && ./limits

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define HOPPER(...) __VA_ARGS__
#else
#define HOPPER(...)
#endif

void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}
#define CHECK(call) check(call, #call)

// Results.

struct Row {
  std::string name;
  double value;
  const char* unit;
  std::string note;
};
std::vector<Row> rows;
std::vector<Row> failed;

void report(std::string name, double value, const char* unit, std::string note = "") {
  std::fprintf(stderr, "%-56s %12.4g %s\n", name.c_str(), value, unit);
  rows.push_back({std::move(name), value, unit, std::move(note)});
}

std::string quoted(std::string text) {
  for (char& c : text)
    if (c == '"' || c == '\\' || c < ' ') c = '\'';
  return '"' + text + '"';
}

// Timing. Work is queued without waiting, so that the device never waits for the host unless it is the faster
// one.

cudaStream_t stream;
int processors;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <class F>
double device_us(F&& launch, int per = 1, int runs = 50) {
  std::vector<cudaEvent_t> marks(runs + 1);
  for (auto& mark : marks) CHECK(cudaEventCreate(&mark));
  for (int i = 0; i < 3; ++i) launch();
  for (int i = 0; i <= runs; ++i) {
    CHECK(cudaEventRecord(marks[i], stream));
    for (int k = 0; k < per && i < runs; ++k) launch();
  }
  CHECK(cudaStreamSynchronize(stream));
  std::vector<double> us;
  for (int i = 0; i < runs; ++i) {
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, marks[i], marks[i + 1]));
    us.push_back(ms * 1e3 / per);
  }
  for (auto& mark : marks) CHECK(cudaEventDestroy(mark));
  return median(us);
}

// Host time of a call made `per` times; the device is idle before, and is waited for afterwards.
template <class F>
double host_us(F&& call, int per = 1, int runs = 100) {
  std::vector<double> us;
  for (int i = -3; i < runs; ++i) {
    CHECK(cudaStreamSynchronize(stream));
    const auto begin = std::chrono::steady_clock::now();
    for (int k = 0; k < per; ++k) call();
    const std::chrono::duration<double, std::micro> passed = std::chrono::steady_clock::now() - begin;
    if (i >= 0) us.push_back(passed.count() / per);
  }
  CHECK(cudaStreamSynchronize(stream));
  return median(us);
}

struct How {
  int blocks, threads;
  bool pdl = false;  // programmatic dependent launch
  int cluster = 1;
  bool cooperative = false;
};

template <class... P, class... A>
void launch(void (*kernel)(P...), const How& how, A... arguments) {
  cudaLaunchAttribute attributes[3]{};
  unsigned n = 0;
  if (how.pdl) {
    attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[n++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (how.cluster > 1) {
    attributes[n].id = cudaLaunchAttributeClusterDimension;
    attributes[n].val.clusterDim.x = how.cluster;
    attributes[n].val.clusterDim.y = attributes[n].val.clusterDim.z = 1;
    ++n;
  }
  if (how.cooperative) {
    attributes[n].id = cudaLaunchAttributeCooperative;
    attributes[n++].val.cooperative = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(how.blocks);
  config.blockDim = dim3(how.threads);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = n;
  CHECK(cudaLaunchKernelEx(&config, kernel, P(arguments)...));
}

struct Graph {
  cudaGraphExec_t exec{};
  template <class F>
  explicit Graph(int nodes, F&& node) {
    cudaGraph_t graph;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < nodes; ++i) node(i);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphDestroy(graph));
  }
  Graph(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(exec); }
  void operator()() const { CHECK(cudaGraphLaunch(exec, stream)); }
};

template <class T>
struct Device {  // memory there, zeroed
  T* at{};
  explicit Device(size_t n) {
    CHECK(cudaMalloc(&at, n * sizeof(T)));
    CHECK(cudaMemsetAsync(at, 0, n * sizeof(T), stream));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(at); }
  std::vector<T> host(size_t n) const {
    std::vector<T> values(n);
    CHECK(cudaMemcpyAsync(values.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    return values;
  }
};

// Bandwidth.

constexpr int kThreads = 256;

__global__ void fill(float* out, size_t n) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    out[i] = static_cast<float>(static_cast<unsigned>(i) * 2654435761U) * 1e-9F;
}

enum Direction { kRead, kWrite, kCopy, kCopyStreaming };

// A block takes tiles of U * kThreads vectors; n is a multiple of that.
template <Direction D, int U>
__global__ void __launch_bounds__(kThreads) move(const float4* in, float4* out, size_t n) {
  float sum = 0;
  for (size_t at = size_t(blockIdx.x) * U * kThreads + threadIdx.x; at < n;
       at += size_t(gridDim.x) * U * kThreads) {
    float4 v[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if constexpr (D == kWrite) v[u] = float4{1.5F, 2.5F, 3.5F, static_cast<float>(at)};
      if constexpr (D == kRead || D == kCopy) v[u] = in[at + u * kThreads];
      if constexpr (D == kCopyStreaming) v[u] = __ldcs(in + at + u * kThreads);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if constexpr (D == kRead) sum += (v[u].x + v[u].y) + (v[u].z + v[u].w);
      if constexpr (D == kWrite || D == kCopy) out[at + u * kThreads] = v[u];
      if constexpr (D == kCopyStreaming) __stcs(out + at + u * kThreads, v[u]);
    }
  }
  if constexpr (D == kRead) {
    for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, k);
    if (threadIdx.x % 32 == 0) out[(blockIdx.x * kThreads + threadIdx.x) / 32].x = sum;
  }
}

using Move = void (*)(const float4*, float4*, size_t);
struct Best {
  double gb_per_s = 0;
  Move kernel{};
  int blocks = 0;
  std::string note;
};

template <Direction D, int... U>
void bandwidth(const char* name, const float4* in, float4* out, size_t n, Best& best) {
  auto with = [&](Move kernel, int unroll, int per_processor) {
    const int tiles = static_cast<int>(n / (unroll * kThreads));
    const int blocks = per_processor != 0 ? std::min(processors * per_processor, tiles) : tiles;
    const double us = device_us([&] { launch(kernel, {blocks, kThreads}, in, out, n); });
    const double rate = n * 16e-3 * (D >= kCopy ? 2 : 1) / us;
    const std::string grid = per_processor != 0 ? std::to_string(per_processor) + "/SM" : "per tile";
    const std::string note = "unroll " + std::to_string(unroll) + ", blocks " + grid;
    report(std::string(name) + ", " + note, rate, "GB/s");
    if (rate > best.gb_per_s) best = {rate, kernel, blocks, name + (", " + note)};
  };
  for (int per_processor : {4, 8, 16, 0}) (with(move<D, U>, U, per_processor), ...);
}

void memory() {
  size_t left = 0, total = 0;
  CHECK(cudaMemGetInfo(&left, &total));
  size_t bytes = size_t(2) << 30;
  while (bytes > left / 3) bytes /= 2;
  const size_t n = bytes / 16;
  Device<float4> a(n), b(n);
  fill<<<processors * 8, kThreads, 0, stream>>>(reinterpret_cast<float*>(a.at), n * 4);
  CHECK(cudaGetLastError());
  const std::string size = "buffers of " + std::to_string(bytes >> 20) + " MiB";
  Best read, write, copied;
  bandwidth<kRead, 2, 4, 8>("read", a.at, b.at, n, read);
  bandwidth<kWrite, 1, 4>("write", a.at, b.at, n, write);
  bandwidth<kCopy, 1, 2, 4, 8>("copy", a.at, b.at, n, copied);
  bandwidth<kCopyStreaming, 2, 4, 8>("copy, streaming hints", a.at, b.at, n, copied);
  report("read, best", read.gb_per_s, "GB/s", size + "; " + read.note);
  report("write, best", write.gb_per_s, "GB/s", size + "; " + write.note);
  report("copy, best", copied.gb_per_s, "GB/s", size + "; bytes read plus bytes written; " + copied.note);
  auto copy_us = [&](size_t some, int per) {
    return device_us([&] { CHECK(cudaMemcpyAsync(b.at, a.at, some, cudaMemcpyDeviceToDevice, stream)); },
                     per);
  };
  report("copy, cudaMemcpyAsync", bytes * 2e-3 / copy_us(bytes, 1), "GB/s", size);
  report("set, cudaMemsetAsync",
         bytes * 1e-3 / device_us([&] { CHECK(cudaMemsetAsync(b.at, 1, bytes, stream)); }), "GB/s", size);
  for (size_t mib : {1, 4, 16, 64, 256}) {
    const size_t some = std::min(bytes, mib << 20);
    // One tile for each block: best for small sizes, where a block that loops would leave others without
    // work.
    const int unroll = mib < 16 ? 1 : 4, tiles = static_cast<int>(some / 16 / (unroll * kThreads));
    auto one = [&](int) {
      launch(unroll == 1 ? move<kCopy, 1> : move<kCopy, 4>, {tiles, kThreads}, a.at, b.at, some / 16);
    };
    const std::string label = "copy of " + std::to_string(mib) + " MiB, ";
    report(label + "stream", some * 2e-3 / device_us([&] { one(0); }, 20), "GB/s",
           "20 on a stream, one buffer");
    report(label + "graph", some * 2e-3 * 20 / device_us(Graph(20, one)), "GB/s",
           "20 in a graph, one buffer");
    report(label + "cudaMemcpyAsync", some * 2e-3 / copy_us(some, 20), "GB/s", "20 on a stream, one buffer");
  }
}

// Arithmetic: eight chains for each thread, and enough warps to fill the pipes.

template <class T>
__global__ void __launch_bounds__(kThreads) multiply_add(T a, T b, T* out, long long* clocks, int rounds) {
  const long long begin = clock64();
  T x[8];
  for (int i = 0; i < 8; ++i) x[i] = static_cast<T>(threadIdx.x + i);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int k = 0; k < 128; ++k) x[k % 8] = fma(x[k % 8], a, b);
  }
  T sum = 0;
  for (T value : x) sum += value;
  if (sum == T(-1)) *out = sum;  // never, but the compiler cannot know
  if (blockIdx.x == 0 && threadIdx.x == 0) *clocks = clock64() - begin;
}

template <class T>
void arithmetic(const char* name, int each_clock) {
  const int blocks = processors * 4, rounds = 4096;
  Device<T> out(1);
  Device<long long> clocks(1);
  const double us = device_us(
      [&] { launch(multiply_add<T>, {blocks, kThreads}, T(0.999), T(0.001), out.at, clocks.at, rounds); });
  const double rate = 2.0 * 128 * rounds * kThreads * blocks / us * 1e-6, mhz = clocks.host(1)[0] / us;
  report(name, rate, "TFLOP/s", "at " + std::to_string(int(mhz)) + " MHz");
  report(std::string(name) + ", share", rate / (2e-6 * each_clock * processors * mhz),
         "of the rate at that clock",
         std::to_string(each_clock) +
             " fused multiply-adds for each SM and clock, as compute capability 9.0 has");
}

#include "limits_latency.h"

template <class F>
void section(const char* name, F&& measure) {
  std::fprintf(stderr, "-- %s\n", name);
  try {
    measure();
    CHECK(cudaStreamSynchronize(stream));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "failed: %s\n", error.what());
    failed.push_back({name, 0, "", error.what()});
    (void)cudaGetLastError();  // an error that is not sticky leaves the other sections alone
  }
}

void print(const cudaDeviceProp& device) {
  int clock = 0;
  (void)cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0);
  std::printf("{\"device\": %s, \"capability\": \"%d.%d\", \"processors\": %d, \"l2_bytes\": %d, ",
              quoted(device.name).c_str(), device.major, device.minor, processors, device.l2CacheSize);
  std::printf(
      "\"clock_mhz\": %d, \"method\": %s", clock / 1000,
      quoted("medians of at least 50 runs after warm-up, by CUDA events unless it says host").c_str());
  for (bool good : {true, false}) {
    std::printf(",\n\"%s\": [", good ? "rows" : "failed");
    const char* separator = "\n";
    for (const Row& row : good ? rows : failed) {
      std::printf("%s{\"name\": %s, \"value\": %.6g, \"unit\": \"%s\", \"note\": %s}", separator,
                  quoted(row.name).c_str(), row.value, row.unit, quoted(row.note).c_str());
      separator = ",\n";
    }
    std::printf("]");
  }
  std::printf("}\n");
  std::fflush(stdout);
}

constexpr int kSeconds = 60;

int main() {
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);  // no kernel may be loaded while a graph is captured
  cudaDeviceProp device{};
  try {
    CHECK(cudaGetDeviceProperties(&device, 0));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  processors = device.multiProcessorCount;
  std::thread([device] {  // a kernel that never ends does not take the other figures with it
    std::this_thread::sleep_for(std::chrono::seconds(kSeconds));
    failed.push_back({"all", 0, "", "not done in " + std::to_string(kSeconds) + " seconds"});
    print(device);
    std::_Exit(2);
  })
      .detach();
  section("memory", memory);
  section("arithmetic", [] {
    arithmetic<float>("fp32 fused multiply-add", 128);
    arithmetic<double>("fp64 fused multiply-add", 64);
  });
  section("latencies", latencies);
  section("launches", launches);
  section("host", host);
  section("clusters", [&] { clusters(device.major); });
  section("barriers", barriers);
  print(device);
  return failed.empty() ? 0 : 1;
}
