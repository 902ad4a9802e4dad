// Device memory for the CUDA backend: a cache of blocks by size that never gives memory back in the middle of
// a loop. One stream uses it all, so a block that is released may be handed out again at once: its next use
// comes later.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "device/backend.h"
#include "device/launch.h"
#if defined(EDFCORE_SIM)
#include "device/sim/memory.h"
#endif

namespace edfcore {

class CudaMemory {
 public:
  // Throws a memory error when there is no room even without the cache; returns any other error.
  cudaError_t allocate(void** data, std::size_t bytes, cudaStream_t stream, const std::string& device) {
    const std::size_t block = block_size(bytes);
    const std::lock_guard lock(mutex_);
    auto& bucket = free_[block];
    if (!bucket.empty()) {
      *data = bucket.back();
      bucket.pop_back();
      stats_.cached_bytes -= static_cast<std::int64_t>(block);
    } else {
      cudaError_t error = cudaMalloc(data, block);
      if (error == cudaErrorMemoryAllocation) {
        const std::int64_t cached = stats_.cached_bytes;
        drop_cache(stream);
        cudaGetLastError();
        error = cudaMalloc(data, block);
        if (error == cudaErrorMemoryAllocation) no_room(bytes, cached, device);
      }
      if (error != cudaSuccess) return error;
    }
    hand_out(*data, bytes, block);
    stats_.bytes += static_cast<std::int64_t>(bytes);
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.bytes);
    ++stats_.allocations;
    return cudaSuccess;
  }

  void release(void* data, std::size_t bytes) noexcept {
    if (data == nullptr) return;
    const std::size_t block = block_size(bytes);
    const std::lock_guard lock(mutex_);
    take_back(data);
    free_[block].push_back(data);
    stats_.bytes -= static_cast<std::int64_t>(bytes);
    stats_.cached_bytes += static_cast<std::int64_t>(block);
  }

  MemoryStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.bytes;
  }

  void empty_cache(cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    drop_cache(stream);
  }

 private:
  // A power of two split in four, or a multiple of the driver's own 2 MiB: at most a quarter is wasted, and a
  // loop whose sizes vary a little finds its blocks again.
  static std::size_t block_size(std::size_t bytes) {
    constexpr std::size_t smallest = 256, largest_step = std::size_t{2} << 20;
    if (bytes <= smallest) return smallest;
    if (bytes > SIZE_MAX - largest_step) return bytes;  // cudaMalloc refuses it
    const std::size_t step = std::clamp(std::bit_floor(bytes - 1) / 4, smallest, largest_step);
    return (bytes + step - 1) / step * step;
  }

  // What the simulator wants to know, so that it can poison and watch the bytes.
#if defined(EDFCORE_SIM)
  static void hand_out(void* data, std::size_t bytes, std::size_t block) {
    sim::hand_out(data, bytes, block);
  }
  static void take_back(void* data) { sim::take_back(data); }
#else
  static void hand_out(void*, std::size_t, std::size_t) {}
  static void take_back(void*) {}
#endif

  void drop_cache(cudaStream_t stream) {
    cudaStreamSynchronize(stream);
    for (auto& [block, bucket] : free_) {
      for (void* data : bucket) cudaFree(data);
      bucket.clear();
    }
    stats_.cached_bytes = 0;
  }

  [[noreturn]] void no_room(std::size_t bytes, std::int64_t cached, const std::string& device) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(ErrorKind::memory, "out of memory on ", device, ": ", bytes, " bytes were asked for, ", stats_.bytes,
         " are in use, ", cached, " were cached and have been given back; the device has ", free, " of ",
         total, " free.");
  }

  mutable std::mutex mutex_;
  MemoryStats stats_;
  std::unordered_map<std::size_t, std::vector<void*>> free_;  // by block size
};

}  // namespace edfcore
