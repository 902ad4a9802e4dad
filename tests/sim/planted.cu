// Kernels with one planted bug each, beside correct ones: what the simulated device must report, and what it
// must let pass. `planted CASE` prints what came out; test_simulator.py judges it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "device/backend.h"
#include "device/launch.h"

namespace edfcore {
namespace {

constexpr unsigned full = 0xffffffffu;

// ---- correct ----

template <class T, bool Barrier>
__global__ void __launch_bounds__(256) row_sums(const T* x, T* out, int n) {
  EDF_SHARED(T, part, 8);
  T sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    sum += x[blockIdx.x * n + i];
  EDF_UNROLL
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(full, sum, step);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  if constexpr (Barrier) __syncthreads();
  if (threadIdx.x == 0) {
    T total = 0;
    for (unsigned i = 0; i < blockDim.x / 32; ++i) total += part[i];
    out[blockIdx.x] = total;
  }
}

// Reverses within a block through dynamic shared memory, twice, so that the arrays are used again after a
// barrier.
__global__ void reverse_twice(float* x) {
  float* all = dynamic_shared<float>();
  const unsigned t = threadIdx.y * blockDim.x + threadIdx.x, n = blockDim.x * blockDim.y;
  float* own = x + (blockIdx.y * gridDim.x + blockIdx.x) * n;
  for (int round = 0; round < 2; ++round) {
    all[t] = own[t];
    __syncthreads();
    own[t] = all[n - 1 - t] + 1;
    __syncthreads();
  }
}

// Every warp primitive; the block's last warp is not full.
__global__ void warp_words(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int lanes = warp == 1 ? 8 : 32;
  const unsigned mask = lanes == 32 ? full : 0xffu;
  int good = 1;
  good &= __shfl_sync(mask, lane * 3, 5) == 15;
  good &= __shfl_sync(mask, lane, 1, 8) == lane / 8 * 8 + 1;
  good &= __shfl_up_sync(mask, lane, 1) == (lane == 0 ? 0 : lane - 1);
  good &= __shfl_down_sync(mask, lane, 2, 8) == (lane % 8 >= 6 ? lane : lane + 2);
  good &= __shfl_xor_sync(mask, 0.5 * lane, 4) == 0.5 * (lane ^ 4);
  good &= __shfl_xor_sync(mask, 1ll << 40 | lane, 1) == (1ll << 40 | (lane ^ 1));
  good &= __ballot_sync(mask, lane % 2) == (0xaaaaaaaau & mask);
  good &= __any_sync(mask, lane == 7) && !__any_sync(mask, lane == 40);
  good &= __all_sync(mask, lane < lanes) && !__all_sync(mask, lane < 3);
  if (lane < 4) good &= __shfl_xor_sync(0xfu, lane, 3) == 3 - lane;  // some lanes among themselves
  __syncwarp(mask);
  out[threadIdx.x] = good;
}

__global__ void count(int* counter, Status* status) {
  atomicAdd(counter, 1);
  if (atomicCAS(&status->input, 0, 7) == 0) {
    status->row = 3;
    status->code = Status::index_out_of_range;
  }
}

// ---- bugs ----

__global__ void leave_last(float* x, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n - 1) x[i] = 1;
}

__global__ void read_past(const float* x, float* out, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) out[i] = x[i] + x[i + 1];
}

__global__ void write_past(float* x, int n) {
  if (static_cast<int>(threadIdx.x) <= n) x[threadIdx.x] = 1;
}

__global__ void write_past_shared(float* x) {
  EDF_SHARED(float, few, 10);
  if (threadIdx.x <= 10) few[threadIdx.x + (x == nullptr)] = 1;
  __syncthreads();
  x[threadIdx.x] = few[0];
}

__global__ void barrier_for_some(float* x) {
  if (threadIdx.x < 100) __syncthreads();
  x[threadIdx.x] = 1;
}

__global__ void two_barriers(float* x) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  x[threadIdx.x] = 1;
}

__global__ void shuffle_for_some(float* x) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(full, v, 1);
  __syncthreads();
  x[threadIdx.x] = v;
}

__global__ void wrong_mask(float* x) { x[threadIdx.x] = __shfl_xor_sync(0xffu, x[threadIdx.x], 1); }

__global__ void too_much_shared(float* x) {
  EDF_SHARED(float, much, 12289);
  much[threadIdx.x] = 1;
  x[threadIdx.x] = much[threadIdx.x];
}

// ---- the cases ----

Backend& gpu() { return cuda_backend(0); }

template <class T>
struct Array {
  explicit Array(std::size_t n) : n(n), data(static_cast<T*>(gpu().allocate(n * sizeof(T)))) {}
  explicit Array(const std::vector<T>& from) : Array(from.size()) {
    gpu().upload(data, from.data(), n * sizeof(T));
  }
  ~Array() { gpu().release(data, n * sizeof(T)); }
  std::vector<T> get() const {
    std::vector<T> out(n);
    gpu().download(out.data(), data, n * sizeof(T));
    return out;
  }
  std::size_t n;
  T* data;
};

void say(bool good) { std::puts(good ? "right" : "wrong"); }

template <class T, bool Barrier>
void sums() {
  bool good = true;
  for (const int n : {1, 31, 256, 1000}) {
    const int rows = 5;
    std::vector<T> x(static_cast<std::size_t>(rows * n));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i % 7);
    const Array<T> in(x), out(rows);
    launch(row_sums<T, Barrier>, rows, 256, 0, gpu().stream(), in.data, out.data, n);
    const std::vector<T> found = out.get();
    for (int r = 0; r < rows; ++r) {
      T sum = 0;
      for (int i = 0; i < n; ++i) sum += x[static_cast<std::size_t>(r * n + i)];
      good = good && found[static_cast<std::size_t>(r)] == sum;
    }
  }
  say(good);
}

void reversal() {
  std::vector<float> x(6 * 1024);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  const Array<float> a(x);
  launch(reverse_twice, dim3(3, 2), dim3(512, 2), 1024 * sizeof(float), gpu().stream(), a.data);
  bool good = true;
  const std::vector<float> found = a.get();
  for (std::size_t i = 0; i < x.size(); ++i) good = good && found[i] == x[i] + 2;
  say(good);
}

void warps() {
  const Array<int> out(40);
  launch(warp_words, 3, 40, 0, gpu().stream(), out.data);
  bool good = true;
  for (const int word : out.get()) good = good && word == 1;
  say(good);
}

void status() {
  const Array<int> counter(std::vector<int>{0});
  launch(count, 10, 100, 0, gpu().stream(), counter.data, gpu().status());
  const Status first = gpu().take_status(), second = gpu().take_status();
  say(counter.get()[0] == 1000 && first.code == Status::index_out_of_range && first.input == 7 &&
      first.row == 3 && second.code == Status::ok);
}

void transfers() {
  bool good = true;
  for (const std::size_t n : {std::size_t{1}, std::size_t{63}, std::size_t{65536}, std::size_t{9000001}}) {
    std::vector<unsigned char> bytes(n);
    for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<unsigned char>(i * 31 >> 3);
    const Array<unsigned char> a(bytes), b(n);
    gpu().copy(b.data, a.data, n);
    good = good && b.get() == bytes;
    gpu().fill(b.data, 3, n);
    good = good && b.get() == std::vector<unsigned char>(n, 3);
  }
  std::uint64_t first = 0, last = 0;
  for (int i = 0; i < 200; ++i) (i == 0 ? first : last) = gpu().mark();
  gpu().wait(first);
  gpu().wait(last);
  say(good && gpu().reached(first) && gpu().reached(last));
}

// Memory comes back poisoned although somebody had written it, and is counted.
void reuse() {
  float* old = nullptr;
  {
    const Array<float> a(std::vector<float>(100, 1.0f));
    old = a.data;
  }
  const std::int64_t before = gpu().memory_stats().bytes;
  const Array<float> a(99);
  bool good = a.data == old && gpu().memory_stats().bytes == before + 99 * 4;
  for (const float v : a.get()) good = good && std::isnan(v);
  say(good);
}

void unwritten() {
  const Array<float> a(1000);
  launch(leave_last, 4, 256, 0, gpu().stream(), a.data, 1000);
  const std::vector<float> found = a.get();
  int nans = 0;
  for (const float v : found) nans += std::isnan(v);
  std::printf("%d NaN, the last: %d\n", nans, std::isnan(found.back()));
}

void out_of_memory() {
  const Array<float> held(1000);
  gpu().release(gpu().allocate(3 << 20), 3 << 20);
  try {
    gpu().allocate(std::size_t{1} << 30);
  } catch (const Error& e) {
    std::printf("%s%s\n", e.kind() == ErrorKind::memory ? "memory: " : "", e.what());
  }
  sums<float, true>();
}

// A failed launch is told once, and then the device is lost.
void lost() {
  const Array<float> a(256);
  launch(barrier_for_some, 1, 256, 0, gpu().stream(), a.data);
  for (int i = 0; i < 2; ++i) try {
      gpu().synchronize();
    } catch (const Error& e) {
      std::printf("%s%s\n", e.kind() == ErrorKind::device ? "device: " : "", e.what());
    }
}

// A launch that cannot be is told, and then the device goes on.
void bad_launch() {
  const Array<float> a(256);
  launch(barrier_for_some, 1, 2000, 0, gpu().stream(), a.data);
  try {
    gpu().synchronize();
  } catch (const Error& e) {
    std::puts(e.what());
  }
  sums<float, true>();
}

void simple(void (*kernel)(float*)) {
  const Array<float> a(std::vector<float>(256, 1.0f));
  launch(kernel, 2, 256, 0, gpu().stream(), a.data);
  gpu().synchronize();
}

const std::pair<const char*, std::function<void()>> cases[] = {
    {"sums", [] { sums<float, true>(), sums<double, true>(); }},
    {"reversal", reversal},
    {"warps", warps},
    {"status", status},
    {"transfers", transfers},
    {"reuse", reuse},
    {"no_barrier", [] { sums<float, false>(); }},
    {"unwritten", unwritten},
    {"barrier_for_some", [] { simple(barrier_for_some); }},
    {"two_barriers", [] { simple(two_barriers); }},
    {"shuffle_for_some", [] { simple(shuffle_for_some); }},
    {"wrong_mask", [] { simple(wrong_mask); }},
    {"too_much_shared", [] { simple(too_much_shared); }},
    {"write_past_shared", [] { simple(write_past_shared); }},
    {"read_past",
     [] {
       const Array<float> in(std::vector<float>(99, 1.0f)), out(99);
       launch(read_past, 1, 128, 0, gpu().stream(), in.data, out.data, 99);
       gpu().synchronize();
     }},
    {"write_past",
     [] {
       const Array<float> a(99);
       launch(write_past, 1, 128, 0, gpu().stream(), a.data, 99);
       gpu().synchronize();
     }},
    {"write_released",
     [] {
       float* x = nullptr;
       {
         const Array<float> a(99);
         x = a.data;
       }
       launch(write_past, 1, 32, 0, gpu().stream(), x, 7);
       gpu().synchronize();
     }},
    {"out_of_memory", out_of_memory},
    {"lost", lost},
    {"bad_launch", bad_launch},
};

}  // namespace
}  // namespace edfcore

// planted CASE...: runs them in turn; a case that throws ends the program with 3.
int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    for (const auto& [name, run] : edfcore::cases) {
      if (std::strcmp(argv[i], name) != 0) continue;
      try {
        run();
      } catch (const edfcore::Error& e) {
        std::printf("error: %s\n", e.what());
        return 3;
      }
    }
  return 0;
}
