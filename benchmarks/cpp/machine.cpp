// The machine's own limits: float32 fused multiply-adds a second, and copies at several sizes, for a number
// of threads.
//
//     g++ -std=c++17 -O3 -march=native -ffp-contract=fast -pthread machine.cpp -o machine && ./machine
//     THREADS

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

// Seconds in which all threads, begun together, have done their part.
static double together(int threads, const std::function<void(int)>& work) {
  std::atomic<int> waiting{threads};
  std::vector<Clock::time_point> begins(threads), ends(threads);
  auto run = [&](int i) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    begins[i] = Clock::now();
    work(i);
    ends[i] = Clock::now();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  run(0);
  for (auto& t : others) t.join();
  const auto first = *std::min_element(begins.begin(), begins.end());
  const auto last = *std::max_element(ends.begin(), ends.end());
  return std::chrono::duration<double>(last - first).count();
}

static volatile float sink;

// Chains of multiply-adds that do not wait for each other: as many as hide the latency of two units. They are
// named one by one, as arrays would go to memory.
template <class Vector>
static double fma_gflops(int threads) {
  constexpr int kLanes = sizeof(Vector) / sizeof(float), kChains = 12;
  constexpr long kSteps = 4'000'000;
  double best = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const double seconds = together(threads, [&](int i) {
      const Vector b = Vector{} + 0.999f, c = Vector{} + 0.001f;
      Vector a0 = Vector{} + float(i), a1 = a0 + 1, a2 = a0 + 2, a3 = a0 + 3, a4 = a0 + 4, a5 = a0 + 5;
      Vector a6 = a0 + 6, a7 = a0 + 7, a8 = a0 + 8, a9 = a0 + 9, a10 = a0 + 10, a11 = a0 + 11;
      for (long s = 0; s < kSteps; ++s) {
        a0 = a0 * b + c, a1 = a1 * b + c, a2 = a2 * b + c, a3 = a3 * b + c;
        a4 = a4 * b + c, a5 = a5 * b + c, a6 = a6 * b + c, a7 = a7 * b + c;
        a8 = a8 * b + c, a9 = a9 * b + c, a10 = a10 * b + c, a11 = a11 * b + c;
      }
      const Vector sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;
      sink = sum[0];
    });
    best = std::max(best, 2e-9 * kLanes * kChains * kSteps * threads / seconds);
  }
  return best;
}

// Bytes read and written in a second, by copies of so many floats, each thread its part over and over.
static double copy_gb(int threads, long elements) {
  std::vector<float> from(elements, 1.0f), to(elements, 2.0f);
  const long part = elements / threads;
  const long times = std::max(2L, (1L << 26) / elements);
  double best = 0;
  for (int trial = 0; trial < 5; ++trial) {
    const double seconds = together(threads, [&](int i) {
      for (long t = 0; t < times; ++t) {
        std::memcpy(to.data() + i * part, from.data() + i * part, part * sizeof(float));
        asm volatile("" ::: "memory");
      }
    });
    best = std::max(best, 8e-9 * part * threads * times / seconds);
  }
  sink = to[elements / 2];
  return best;
}

using Vector16 = float __attribute__((vector_size(16)));
using Vector32 = float __attribute__((vector_size(32)));
using Vector64 = float __attribute__((vector_size(64)));

int main(int count, char** words) {
  const int threads = count > 1 ? std::max(1, std::atoi(words[1])) : 1;
  double fma = fma_gflops<Vector16>(threads);
#ifdef __AVX__
  fma = std::max(fma, fma_gflops<Vector32>(threads));
#endif
#ifdef __AVX512F__
  fma = std::max(fma, fma_gflops<Vector64>(threads));
#endif
  std::printf("{\"fma_gflops\": %.2f, \"copy_gb_per_s\": {", fma);
  const long sizes[] = {1L << 12, 1L << 16, 1L << 20, 1L << 24};
  for (long n : sizes) std::printf("%s\"%ld\": %.3f", n == sizes[0] ? "" : ", ", n, copy_gb(threads, n));
  std::printf("}}\n");
}
