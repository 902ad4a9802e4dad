// One Backend per device: memory, copies, and the order of work. Everything above this room is the same for
// all devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
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

// Bytes that were copied between a device's memory and the host's, ever; none on the CPU.
struct Copied {
  std::int64_t to_device = 0, to_host = 0;
  friend Copied operator-(Copied a, Copied b) { return {a.to_device - b.to_device, a.to_host - b.to_host}; }
  Copied& operator+=(Copied other) {
    to_device += other.to_device;
    to_host += other.to_host;
    return *this;
  }
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
  virtual Copied copied() const { return {}; }
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill(void* to, int byte, std::size_t bytes) = 0;

  // Asynchronous completion: `mark` names the point that the work given so far ends at; `reached` asks,
  // `wait` waits.
  virtual std::uint64_t mark() = 0;
  virtual bool reached(std::uint64_t mark) = 0;
  virtual void wait(std::uint64_t mark) = 0;
  virtual void synchronize() = 0;  // throws a device error when earlier work failed
  virtual void* stream() = 0;      // what Launch::stream is to be

  // To be called after a launch, or after a run of several at once, with the ops' names, which must live as
  // long as the program. Throws a device error that names them when the device has failed; one that runs them
  // later than this returns tells so at a call that waits.
  virtual void launched([[maybe_unused]] std::span<const char* const> ops) {}

  // Events with a time: moments in a GPU's work, between which seconds pass. `seconds` waits for both.
  virtual void* new_event() { return nullptr; }
  virtual void record_event([[maybe_unused]] void* event) {}
  virtual double seconds([[maybe_unused]] void* from, [[maybe_unused]] void* to) { return 0; }
  virtual void free_event([[maybe_unused]] void* event) noexcept {}

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

inline constexpr int max_cuda_devices = 16;

// What a GPU says of itself; 0 where it has no answer.
struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  std::int64_t total_memory = 0;
  std::int64_t multiprocessors = 0;
  std::int64_t clock_khz = 0, memory_clock_khz = 0, memory_bus_bits = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t shared_per_block = 0, shared_per_block_on_request = 0, shared_per_multiprocessor = 0;
  std::int64_t registers_per_multiprocessor = 0;
  std::int64_t threads_per_block = 0, threads_per_multiprocessor = 0, warp_size = 0;
  std::string driver, runtime;  // versions of CUDA, "13.0"
};

// CUDA as this process sees it. Neither throws nor creates a context; `cuda_why_not` is empty when there is a
// device.
int cuda_device_count();
std::string cuda_why_not();
// "cuda", "sim" or "none": what this build holds.
const char* cuda_build();
// "NVIDIA H200, compute capability 9.0, ..." for people; throws a device error without one.
std::string cuda_device_description(int index);
DeviceProperties cuda_device_properties(int index);  // the same
void require_cuda_device(int index);                 // the same: throws, or does nothing

// Defined by cuda.cu or by no_cuda.cpp.
Backend& cuda_backend(int index);

}  // namespace edfcore
