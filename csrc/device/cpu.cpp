// The CPU backend: aligned memory from size-bucketed free lists, copies that are done when they return.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/error.h"
#include "device/backend.h"

namespace edfcore {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t smallest = 64;
constexpr std::size_t largest_cached = std::size_t{1} << 26;  // larger blocks go back to the system
constexpr std::size_t most_cached = std::size_t{1} << 28;     // bytes kept in all free lists together

#if defined(__linux__)
constexpr std::size_t huge_page = std::size_t{1} << 21;
#else
constexpr std::size_t huge_page = SIZE_MAX;  // none that one could ask for
#endif

// Blocks are powers of two up to a page and multiples of an eighth of one beyond, so little is wasted.
std::size_t block_size(std::size_t bytes) {
  if (bytes <= smallest) return smallest;
  const std::size_t step = std::max<std::size_t>(smallest, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

// Every block size up to largest_cached has a bucket: 8 per power of two.
std::size_t bucket_of(std::size_t block) {
  const std::size_t power = std::bit_floor(block);
  return static_cast<std::size_t>(std::countr_zero(power)) * 8 +
         (block - power) / std::max<std::size_t>(1, power / 8);
}

std::size_t block_of(std::size_t bucket) {
  const std::size_t power = std::size_t{1} << bucket / 8;
  return power + bucket % 8 * std::max<std::size_t>(1, power / 8);
}

std::align_val_t alignment_of(std::size_t block) {
  return std::align_val_t{block < huge_page ? alignment : huge_page};
}

// Large blocks lie in huge pages where the system has some: streams through small ones stop at the end of
// each, for the hardware does not fetch beyond it, and a matrix has more of them than a core keeps addresses
// of.
void* from_system(std::size_t block) {
  void* data = ::operator new(block, alignment_of(block), std::nothrow);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (data && block >= huge_page) madvise(data, block / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return data;
}

void to_system(void* data, std::size_t block) { ::operator delete(data, alignment_of(block)); }

class CpuBackend final : public Backend {
 public:
  // The one instance. A forked child finds its free lists whole and its mutex free.
  static CpuBackend* make() {
    static CpuBackend* const instance = new CpuBackend;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { instance->mutex_.lock(); }, [] { instance->mutex_.unlock(); },
                   [] { instance->mutex_.unlock(); });
#endif
    return instance;
  }

  Device device() const override { return cpu_device; }

  void* allocate(std::size_t bytes) override {
    const std::size_t block = block_size(bytes);
    std::lock_guard lock(mutex_);
    void* data = take(block);
    if (!data) data = from_system(block);
    if (!data) {
      drop_cache();
      data = from_system(block);
    }
    if (!data)
      fail(ErrorKind::memory, "out of memory on the CPU: ", bytes, " bytes were asked for, ", stats_.bytes,
           " are in use.");
    stats_.bytes += static_cast<std::int64_t>(bytes);
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.bytes);
    ++stats_.allocations;
    return data;
  }

  void release(void* data, std::size_t bytes) noexcept override {
    const std::size_t block = block_size(bytes);
    std::lock_guard lock(mutex_);
    stats_.bytes -= static_cast<std::int64_t>(bytes);
    if (block > largest_cached || stats_.cached_bytes + block > most_cached) {
      to_system(data, block);
      return;
    }
    *static_cast<void**>(data) = free_[bucket_of(block)];  // the free list runs through the blocks themselves
    free_[bucket_of(block)] = data;
    stats_.cached_bytes += static_cast<std::int64_t>(block);
  }

  MemoryStats memory_stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() override {
    std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.bytes;
  }
  void empty_cache() override {
    std::lock_guard lock(mutex_);
    drop_cache();
  }

  void upload(void* to, const void* host, std::size_t bytes) override { std::memcpy(to, host, bytes); }
  void download(void* host, const void* from, std::size_t bytes) override { std::memcpy(host, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override { std::memmove(to, from, bytes); }
  void fill(void* to, int byte, std::size_t bytes) override { std::memset(to, byte, bytes); }

  // Work is done when the call returns, so every mark lies in the past.
  std::uint64_t mark() override { return 0; }
  bool reached(std::uint64_t) override { return true; }
  void wait(std::uint64_t) override {}
  void synchronize() override {}
  void* stream() override { return nullptr; }

  // One word per thread: graphs of different threads must not see each other's bad labels.
  Status* status() override { return &status_; }
  Status take_status() override { return std::exchange(status_, Status{}); }

 private:
  void* take(std::size_t block) {
    if (block > largest_cached) return nullptr;
    void*& head = free_[bucket_of(block)];
    void* data = head;
    if (data) {
      head = *static_cast<void**>(data);
      stats_.cached_bytes -= static_cast<std::int64_t>(block);
    }
    return data;
  }

  void drop_cache() {
    for (std::size_t bucket = 0; bucket < free_.size(); ++bucket)
      while (free_[bucket]) {
        void* next = *static_cast<void**>(free_[bucket]);
        to_system(std::exchange(free_[bucket], next), block_of(bucket));
      }
    stats_.cached_bytes = 0;
  }

  mutable std::mutex mutex_;
  MemoryStats stats_;
  std::array<void*, 27 * 8> free_{};
  static thread_local Status status_;
};

thread_local Status CpuBackend::status_{};

}  // namespace

Backend& backend(Device device) {
  // Leaked on purpose: arrays handed to Python may outlive static destruction.
  static CpuBackend* const cpu = CpuBackend::make();
  if (device.type == DeviceType::cpu) return *cpu;
  return cuda_backend(device.index);
}

// Made when the library is loaded: a fork while another thread is making it would leave the child waiting for
// that thread.
[[maybe_unused]] static const Backend& made_at_load = backend(cpu_device);

}  // namespace edfcore
