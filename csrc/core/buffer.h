// Buffer: a counted piece of memory, owned by a backend or borrowed from outside (a NumPy array, a donated
// tensor).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/device.h"
#include "core/ref.h"

namespace edfcore {

struct Buffer {
  void* data = nullptr;
  std::size_t bytes = 0;
  Device device;
  void (*free)(Buffer&) = nullptr;  // gives the memory back; called once, when the last reference goes
  void* owner = nullptr;            // for `free`: the backend, or what the memory was borrowed from
  std::uint32_t version = 0;        // grows with every update in place
  std::atomic<std::int32_t> refs{0};

  bool unique() const { return refs.load(std::memory_order_acquire) == 1; }
};

inline void retain(Buffer* buffer) { buffer->refs.fetch_add(1, std::memory_order_relaxed); }

inline void release(Buffer* buffer) {
  if (buffer->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (buffer->free) buffer->free(*buffer);
  delete buffer;
}

using BufferRef = Ref<Buffer>;

// Memory that stays someone else's: `free` is told when the engine needs it no longer.
inline BufferRef borrow(void* data, std::size_t bytes, Device device, void (*free)(Buffer&), void* owner) {
  auto* buffer = new Buffer;
  buffer->data = data;
  buffer->bytes = bytes;
  buffer->device = device;
  buffer->free = free;
  buffer->owner = owner;
  return BufferRef(buffer);
}

}  // namespace edfcore
