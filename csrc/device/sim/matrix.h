// Tensor cores and asynchronous copies of the simulated device. Included by device/mma.h, whose words these
// are; matrix.cpp does the work.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "device/sim/sim.h"

namespace edfcore {
namespace sim {

enum class Format : uint8_t { tf32, bf16, f16 };

void multiply(Format format, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site);
void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Site site);
void copy_later(void* shared, const void* global, size_t bytes, size_t valid);
void close_group();
void copy_now(int but_newest);

}  // namespace sim

#define EDF_SIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EDF_SIM_HERE) {
  sim::multiply(sim::Format::tf32, d, a, b0, b1, {file, line});
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EDF_SIM_HERE) {
  sim::multiply(sim::Format::bf16, d, a, b0, b1, {file, line});
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EDF_SIM_HERE) {
  sim::multiply(sim::Format::f16, d, a, b0, b1, {file, line});
}

uint32_t to_tf32(float x);

template <bool Transposed>
void load_matrices(uint32_t (&r)[4], const void* row, EDF_SIM_HERE) {
  sim::load_matrices(r, row, Transposed, {file, line});
}

template <int Bytes>
void copy_async(void* shared, const void* global, int valid) {
  sim::copy_later(shared, global, Bytes, static_cast<size_t>(valid));
}
inline void copy_async_commit() { sim::close_group(); }
template <int Newest>
void copy_async_wait() {
  sim::copy_now(Newest);
}

#undef EDF_SIM_HERE

}  // namespace edfcore
