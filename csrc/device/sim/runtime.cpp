// The simulated CUDA runtime: device memory that is poisoned, watched and limited, and errors that stick.
#include "device/sim/runtime.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "core/error.h"
#include "device/sim/fiber.h"
#include "device/sim/memory.h"

namespace edfcore::sim {
namespace {

constexpr size_t guard_bytes = 256;   // behind every allocation
constexpr size_t watched_bytes = 64;  // of the bytes behind a request, at every synchronisation
constexpr unsigned char canary = 0xa5;
constexpr size_t default_limit = size_t{4} << 30;

struct Allocation {
  size_t capacity;   // what cudaMalloc was asked for
  size_t requested;  // what is handed out of it
};

struct Runtime {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;
  std::map<const void*, size_t> shared_limits;
  size_t in_use = 0;
  std::atomic<bool> launched = false;  // since memory was last looked at
  std::string failing;                 // the file of a launch that has failed and is not told yet
  std::atomic<uint64_t> launches = 0;
  std::atomic<cudaError_t> last_error = cudaSuccess;
  std::mutex fault_mutex;
  std::atomic<cudaError_t> fault = cudaSuccess;
  std::string fault_text;  // never changes once `fault` is set
};

Runtime& runtime() {
  static auto* instance = new Runtime;  // never destroyed: buffers may outlive it at exit
  return *instance;
}

void poison([[maybe_unused]] char* data, [[maybe_unused]] size_t requested,
            [[maybe_unused]] size_t capacity) {
#if defined(EDF_SIM_ASAN)
  __asan_unpoison_memory_region(data, capacity + guard_bytes);
#endif
  memset(data, 0xff, requested);
  memset(data + requested, canary, capacity - requested + guard_bytes);
#if defined(EDF_SIM_ASAN)
  __asan_poison_memory_region(data + requested, capacity - requested + guard_bytes);
#endif
}

// Reports a write into the first `watch` bytes behind the request. (ASan has reported it already.)
void check([[maybe_unused]] uintptr_t address, [[maybe_unused]] const Allocation& a,
           [[maybe_unused]] size_t watch) {
#if !defined(EDF_SIM_ASAN)
  const char* data = reinterpret_cast<const char*>(address);
  const size_t behind = a.capacity - a.requested + guard_bytes;
  if (watch > behind) watch = behind;
  for (size_t i = 0; i < watch; ++i) {
    if (static_cast<unsigned char>(data[a.requested + i]) == canary) continue;
    set_fault(cudaErrorIllegalAddress, a.requested == 0
                                           ? text("a write to memory that had been released, at byte ", i)
                                           : text("a write past the end of an allocation of ", a.requested,
                                                  " bytes, at byte ", a.requested + i));
    return;
  }
#endif
}

void check_all() {
  Runtime& r = runtime();
  if (!r.launched.exchange(false)) return;
  if (!r.failing.empty())
    set_fault(cudaErrorIllegalAddress, "a kernel launched in " + std::exchange(r.failing, {}) +
                                           " was made to fail (EDFCORE_SIM_FAULT)");
  for (const auto& [address, allocation] : r.allocations) check(address, allocation, watched_bytes);
}

// True when [data, data + bytes) lies in what is handed out.
bool on_device(const void* data, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto& all = runtime().allocations;
  auto it = all.upper_bound(address);
  if (it == all.begin()) return false;
  --it;
  return address - it->first + bytes <= it->second.requested;
}

}  // namespace

cudaError_t state() { return runtime().fault; }

size_t memory_limit() {
  const char* value = getenv("EDFCORE_SIM_MEMORY");
  return value != nullptr ? strtoull(value, nullptr, 10) : default_limit;
}

void set_fault(cudaError_t error, const std::string& message) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.fault_mutex);
  if (r.fault != cudaSuccess) return;
  r.fault_text = "simulated device: " + message;
  r.fault = error;
}

cudaError_t set_error(cudaError_t error) {
  runtime().last_error = error;
  return error;
}

bool faulted() { return runtime().fault != cudaSuccess; }

bool note_launch(const char* file) {
  Runtime& r = runtime();
  r.launched = true;
  r.launches.fetch_add(1, std::memory_order_relaxed);
  const char* failing = getenv("EDFCORE_SIM_FAULT");
  if (failing == nullptr || *failing == 0 || strstr(file, failing) == nullptr) return true;
  const std::lock_guard lock(r.mutex);
  r.failing = file;
  return false;
}

uint64_t launches() { return runtime().launches.load(std::memory_order_relaxed); }

size_t dynamic_shared_limit(const void* kernel) {
  const std::lock_guard lock(runtime().mutex);
  const auto& limits = runtime().shared_limits;
  const auto it = limits.find(kernel);
  return it != limits.end() ? it->second : size_t{48 << 10};
}

void hand_out(void* data, size_t requested, size_t capacity) {
  const std::lock_guard lock(runtime().mutex);
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto [place, fresh] = runtime().allocations.try_emplace(address, Allocation{capacity, requested});
  if (!fresh && place->second.requested == 0) check(address, place->second, SIZE_MAX);
  place->second = {capacity, requested};
  poison(static_cast<char*>(data), requested, capacity);
}

void take_back(void* data) {
  const std::lock_guard lock(runtime().mutex);
  const auto address = reinterpret_cast<uintptr_t>(data);
  Allocation& a = runtime().allocations.at(address);
  check(address, a, SIZE_MAX);
  a.requested = 0;
  poison(static_cast<char*>(data), 0, a.capacity);
}

}  // namespace edfcore::sim

using namespace edfcore::sim;

cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (faulted()) return state();
  Runtime& r = runtime();
  {
    const std::lock_guard lock(r.mutex);
    if (bytes > memory_limit() || r.in_use + bytes > memory_limit())
      return set_error(cudaErrorMemoryAllocation);
  }
  const size_t total = (bytes + guard_bytes + 255) / 256 * 256;
  *data = aligned_alloc(256, total);
  if (*data == nullptr) return set_error(cudaErrorMemoryAllocation);
  hand_out(*data, bytes, bytes);
  const std::lock_guard lock(r.mutex);
  r.in_use += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return state();
  Runtime& r = runtime();
  {
    const std::lock_guard lock(r.mutex);
    const auto it = r.allocations.find(reinterpret_cast<uintptr_t>(data));
    if (it == r.allocations.end()) return set_error(cudaErrorInvalidValue);
    check(it->first, it->second, SIZE_MAX);
    r.in_use -= it->second.capacity;
#if defined(EDF_SIM_ASAN)
    __asan_unpoison_memory_region(data, it->second.capacity + guard_bytes);
#endif
    r.allocations.erase(it);
  }
  free(data);
  return state();
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *data != nullptr ? state() : set_error(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* data) {
  free(data);
  return state();
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = memory_limit();
  *free_bytes = *total - runtime().in_use;
  return state();
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (capturing()) return set_error(cudaErrorStreamCaptureUnsupported);
  if (faulted() || bytes == 0) return state();
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  {
    const std::lock_guard lock(runtime().mutex);
    if (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device)
      return set_error(cudaErrorInvalidValue);
  }
  memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
  if (capturing()) return set_error(cudaErrorStreamCaptureUnsupported);
  if (faulted() || bytes == 0) return state();
  {
    const std::lock_guard lock(runtime().mutex);
    if (!on_device(to, bytes)) return set_error(cudaErrorInvalidValue);
  }
  memset(to, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new char);
  return state();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<char*>(stream);
  return state();
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }

cudaError_t cudaStreamQuery(cudaStream_t) { return state(); }

cudaError_t cudaDeviceSynchronize() {
  if (capturing()) return set_error(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(runtime().mutex);
  check_all();
  return state();
}

struct CUevent_st {
  std::chrono::steady_clock::time_point when{};
  bool timed = false, recorded = false;
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{.timed = (flags & cudaEventDisableTiming) == 0};
  return state();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return state();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->when = std::chrono::steady_clock::now();
  event->recorded = true;
  return state();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (!from->timed || !to->timed || !from->recorded || !to->recorded) return set_error(cudaErrorInvalidValue);
  *milliseconds = std::chrono::duration<float, std::milli>(to->when - from->when).count();
  return state();
}

cudaError_t cudaEventQuery(cudaEvent_t) { return state(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  runtime().last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  const Runtime& r = runtime();
  return r.fault != cudaSuccess ? r.fault : r.last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const Runtime& r = runtime();
  if (error != cudaSuccess && error == r.fault) return r.fault_text.c_str();
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return cudaGetErrorName(error);
  }
}

cudaError_t cudaSimFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > max_dynamic_shared)
    return set_error(cudaErrorInvalidValue);
  const std::lock_guard lock(runtime().mutex);
  runtime().shared_limits[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
