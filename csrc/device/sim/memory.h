// What the simulator does to memory beyond the CUDA runtime's words: the caching allocator tells it which
// bytes are handed out, and faults found anywhere become the device's sticky error.
#pragma once

#include <stddef.h>

#include <string>

#include "device/sim/runtime.h"

namespace edfcore::sim {

// `data`, the start of a cudaMalloc of `capacity` bytes, now serves a request of `requested` bytes. They are
// poisoned, and the rest is watched: a write there is reported at take_back or at the next synchronisation
// (under ASan at once, as is a read). cudaMalloc hands out all it allocates.
void hand_out(void* data, size_t requested, size_t capacity);
// The bytes lie in a cache now, and nobody may touch them.
void take_back(void* data);

// A sticky error, as after a fault on a device: every call fails from now on. The first one's text is kept.
void set_fault(cudaError_t error, const std::string& message);
// An error of one call, which cudaGetLastError clears.
cudaError_t set_error(cudaError_t error);
bool faulted();
cudaError_t state();  // the sticky error, or cudaSuccess

size_t memory_limit();  // EDFCORE_SIM_MEMORY, in bytes, or 4 GiB

inline constexpr size_t max_dynamic_shared = 227 << 10;  // as on an H200

// How much dynamic shared memory `kernel` may ask for; 48 KiB unless cudaFuncSetAttribute raised it.
size_t dynamic_shared_limit(const void* kernel);

// A launch in this file is about to run: memory must be checked at the next synchronisation. False when it is
// not to run, since EDFCORE_SIM_FAULT names a part of the file's path: then the device fails at the next
// synchronisation, as late as on a GPU.
bool note_launch(const char* file);

}  // namespace edfcore::sim
