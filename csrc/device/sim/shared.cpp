// Lays out a block's shared arrays in one arena. One block runs at a time, so there is one arena.
#include "device/sim/shared.h"

#include <string.h>

#include "core/error.h"
#include "device/sim/fiber.h"

namespace edfcore::sim {
namespace {

constexpr size_t static_limit = 48 << 10;  // what a device gives without being asked
constexpr size_t gap = 64;
constexpr int max_arrays = 64;
constexpr size_t arena_bytes = (232 << 10) + max_arrays * 2 * gap;
constexpr int canary = 0xa5;

struct Array {
  const void* identity;
  size_t offset;
  size_t bytes;
};

alignas(128) char arena[arena_bytes];
Array arrays[max_arrays];  // array 0 is the dynamic one
int n_arrays = 0;
size_t used = 0;     // of the arena, gaps included
size_t counted = 0;  // towards the limit
size_t dynamic_bytes = 0;
size_t limit = 0;

void forbid([[maybe_unused]] size_t from, [[maybe_unused]] size_t to) {
#if defined(EDF_SIM_ASAN)
  __asan_poison_memory_region(arena + from, to - from);
#else
  memset(arena + from, canary, to - from);
#endif
}

void allow([[maybe_unused]] size_t from, [[maybe_unused]] size_t to) {
#if defined(EDF_SIM_ASAN)
  __asan_unpoison_memory_region(arena + from, to - from);
#endif
}

void* add(const void* identity, size_t bytes, size_t align) {
  const size_t offset = (used + align - 1) / align * align;
  counted = (counted + 15) / 16 * 16 + bytes;
  if (n_arrays == max_arrays || counted > limit || offset + bytes + gap > arena_bytes) return nullptr;
  arrays[n_arrays++] = {identity, offset, bytes};
  allow(offset, offset + bytes);
  memset(arena + offset, 0xff, bytes);
  used = offset + bytes + gap;
  forbid(offset + bytes, used);
  return arena + offset;
}

}  // namespace

void begin_shared_launch(size_t dynamic, size_t dynamic_limit) {
  dynamic_bytes = dynamic;
  limit = dynamic_limit > static_limit ? dynamic_limit : static_limit;
#if defined(EDF_SIM_ASAN)
  used = arena_bytes;  // forbidden when the first block begins
#endif
}

void begin_shared_block() {
#if defined(EDF_SIM_ASAN)
  forbid(0, used);
#endif
  n_arrays = 0;
  used = 0;
  counted = 0;
  if (dynamic_bytes > 0) add(nullptr, dynamic_bytes, 128);
}

void* find_shared(const void* identity, size_t bytes, size_t align) {
  for (int i = 0; i < n_arrays; ++i)
    if (arrays[i].identity == identity) return arena + arrays[i].offset;
  return add(identity, bytes, align < 16 ? 16 : align);
}

void* find_dynamic_shared() { return dynamic_bytes > 0 ? arena : nullptr; }

std::string end_shared_block() {
#if !defined(EDF_SIM_ASAN)
  for (int i = 0; i < n_arrays; ++i) {
    const size_t end = arrays[i].offset + arrays[i].bytes;
    for (size_t k = 0; k < gap; ++k)
      if (static_cast<unsigned char>(arena[end + k]) != canary)
        return text("a write past the end of a shared array of ", arrays[i].bytes, " bytes, at byte ",
                    arrays[i].bytes + k);
  }
#endif
  return {};
}

void end_shared_launch() { allow(0, arena_bytes); }

}  // namespace edfcore::sim
