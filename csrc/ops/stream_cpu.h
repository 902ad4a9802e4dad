// For *.cpu.cpp: outputs that no cache can keep. Plain stores would read every line of them from memory
// before they write it, and drive out of the caches what is needed next; these go past the caches.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <string.h>

#include "ops/kernel_cpu.h"

namespace edfcore::EDF_ISA {

#if defined(__AVX2__)
inline constexpr bool has_streams = true;
#else
inline constexpr bool has_streams = false;  // code that is hardly ever used stays small
#endif
inline constexpr std::int64_t stream_bytes = std::int64_t{16} << 20;  // outputs from here on

// Is the output so large, and none of the inputs' own memory, whose lines are in the cache already?
inline bool streams(const Launch& launch, std::int64_t item) {
  if (!has_streams || launch.out[0].size * item < stream_bytes) return false;
  for (std::int32_t i = 0; i < launch.n_in; ++i)
    if (launch.in[i].data == launch.out[0].data) return false;
  return true;
}

// As memcpy, which short runs are left to: it is whole lines that go past the caches. Other threads can see
// what was written after stream_end.
__attribute__((noinline)) inline void stream(void* to, const void* from, std::int64_t bytes) {
#if defined(__AVX2__)
  auto* y = static_cast<char*>(to);
  auto* x = static_cast<const char*>(from);
  constexpr std::int64_t line = 64, shortest = 8 * line;  // a part of elementwise_ranges
  if (bytes < shortest) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  const std::int64_t past = static_cast<std::int64_t>(reinterpret_cast<uintptr_t>(y) % line);
  std::int64_t at = past == 0 ? 0 : line - past;
  memcpy(y, x, static_cast<size_t>(at));
  for (; at + line <= bytes; at += line) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(y + at), _mm512_loadu_si512(x + at));
#else
    for (std::int64_t i = at; i < at + line; i += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(y + i),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
#endif
  }
  memcpy(y + at, x + at, static_cast<size_t>(bytes - at));
#else
  memcpy(to, from, static_cast<size_t>(bytes));
#endif
}
inline void stream_end() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Calls body(begin, end, to) for consecutive ranges that cover the output, perhaps in parallel: its elements
// [begin, end) are to be written from `to` on. Where a body computes for longer than memory takes, plain
// stores are done meanwhile, and those past the caches would not be: it is not
// `Light`.
template <class T, bool Light = true, class Body>
void elementwise_ranges(const Launch& launch, std::int64_t grain, const Body& body) {
  constexpr std::int64_t part =
      512 / std::int64_t{sizeof(T)};  // so short that loads go on while it is stored
  T* y = pointer<T>(launch.out[0]);
  if constexpr (!Light || !has_streams) {
    parallel_ranges(launch.out[0].size, grain,
                    [=, &body](std::int64_t begin, std::int64_t end) { body(begin, end, y + begin); });
    return;
  }
  const bool past = streams(launch, sizeof(T));
  parallel_ranges(launch.out[0].size, grain, [=, &body](std::int64_t begin, std::int64_t end) {
    alignas(64) T buffer[part];
    for (std::int64_t next; begin < end; begin = next) {
      next = past && begin + part < end ? begin + part : end;
      T* to = past ? buffer : y + begin;
      __asm__("" : "+r"(to));  // or there would be a body for each
      body(begin, next, to);
      if (past) stream(y + begin, buffer, (next - begin) * std::int64_t{sizeof(T)});
    }
    if (past) stream_end();
  });
}

}  // namespace edfcore::EDF_ISA
