// One Backend per device: memory, copies, and the order of work. Everything above this room is the same for
// all devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/device.h"
#include "core/kernel.h"

namespace edfcore {

struct MemoryStats {
  std::int64_t bytes = 0;         // handed out now
  std::int64_t peak_bytes = 0;    // the most ever handed out
  std::int64_t cached_bytes = 0;  // kept by the allocator for reuse
  std::int64_t allocations = 0;   // requests served, ever
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;

  // At least 64-byte aligned; contents undefined. Throws a memory error that names the request, what is in
  // use and what is cached, after giving the cache back and trying again; the engine stays usable.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) noexcept = 0;
  virtual MemoryStats memory_stats() const = 0;
  virtual void reset_peak() = 0;
  virtual void empty_cache() = 0;

  // Copies in stream order. `upload` may return before the copy is done but has read `host` when it returns;
  // `download` returns when `host` is filled.
  virtual void upload(void* to, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* from, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill(void* to, int byte, std::size_t bytes) = 0;

  // Asynchronous completion: `mark` names the point that the work given so far ends at; `reached` asks,
  // `wait` waits.
  virtual std::uint64_t mark() = 0;
  virtual bool reached(std::uint64_t mark) = 0;
  virtual void wait(std::uint64_t mark) = 0;
  virtual void synchronize() = 0;  // throws a device error when earlier work failed
  virtual void* stream() = 0;      // what Launch::stream is to be

  // The launches of issue(context), written down instead of run, or null where the device does no such thing;
  // what was written down is run as often as it is repeated. A run depends on the memory that it reads alone.
  virtual void* record([[maybe_unused]] void (*issue)(void*), [[maybe_unused]] void* context) {
    return nullptr;
  }
  virtual void repeat([[maybe_unused]] void* recorded) {}
  virtual void forget([[maybe_unused]] void* recorded) noexcept {}

  // The status word that kernels on this device write (device memory), and the look at it, which synchronises
  // on a GPU and clears it.
  virtual Status* status() = 0;
  virtual Status take_status() = 0;
};

// The backend of a device; throws a device error that says why it is not there. Built at first use.
Backend& backend(Device device);

// CUDA as this process sees it. Neither throws nor creates a context; `cuda_why_not` is empty when there is a
// device.
int cuda_device_count();
std::string cuda_why_not();
// "cuda", "sim" or "none": what this build holds.
const char* cuda_build();
// "NVIDIA H200, compute capability 9.0, ..." for people; throws a device error without one.
std::string cuda_device_description(int index);

// Defined by cuda.cu or by no_cuda.cpp.
Backend& cuda_backend(int index);

}  // namespace edfcore
