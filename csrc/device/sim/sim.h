// The simulated device as kernels see it: thread numbers, barriers, warp primitives and block-shared memory.
// Included by device/launch.h only; block.cpp does the work. Threads of a block are fibers that run in random
// order between barriers. A fault (divergence, too much shared memory) ends the launch and becomes a sticky
// CUDA error.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "device/sim/language.h"
#include "device/sim/runtime.h"

// Set at every switch of fibers.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace edfcore::sim {

struct Site {
  const char* file;
  int line;
};

// What launch() takes for a stream: notes where the launch stands in the source, for messages.
struct StreamHere {
  void* stream;
  Site site;
  StreamHere(void* stream, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : stream(stream), site{file, line} {}
};

struct LaunchConfig {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  const void* kernel;
  Site site;
};

// Every thread gets its own copy of the parameters, as on a device.
template <class... Params>
struct Call {
  void (*kernel)(Params...);
  std::tuple<Params...> params;
  static void invoke(void* self) {
    const Call& call = *static_cast<const Call*>(self);
    std::apply(call.kernel, call.params);
  }
};

// Runs `thread(context)` once for every thread of the grid and returns when all are done or one has failed.
void run_grid(const LaunchConfig& config, void (*thread)(void* context), void* context);

// A launch that a stream capture has written down, with a copy of its parameters.
struct Launched {
  LaunchConfig config;
  void (*thread)(void* context);
  std::shared_ptr<void> call;
};
void write_down(Launched launched);

template <class... Params>
void run_or_write_down(const LaunchConfig& config, Call<Params...> call) {
  using Own = Call<Params...>;
  if (capturing())
    write_down({config, &Own::invoke, std::make_shared<Own>(std::move(call))});
  else
    run_grid(config, &Own::invoke, &call);
}

uint64_t launches();  // that have run so far

// The order of threads from here on; EDFCORE_SIM_SEED, or 0, until it is called.
void set_seed(uint64_t seed);

void block_barrier(Site site);

// A meeting of the lanes in `mask` that have not left the kernel: every lane brings a value and takes away
// the one that lane `source` brought (all ones if that lane is not there).
enum class Meeting { sync, shuffle, ballot };
uint64_t warp_meeting(Meeting meeting, unsigned mask, uint64_t value, int source, Site site);
int lane();

void* shared_array(const void* identity, size_t bytes, size_t align);
void* dynamic_shared();

// One array per block for each `identity`, which is one per declaration and template instance.
template <class T, size_t N>
T (&shared_array(const void* identity))
[N] {
  static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is never constructed");
  return *static_cast<T(*)[N]>(shared_array(identity, sizeof(T[N]), alignof(T)));
}

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8, "shuffles move numbers");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_meeting(Meeting::shuffle, mask, bits, source, site);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace edfcore::sim

#define EDF_SHARED(T, name, N)             \
  static const char edf_shared_##name = 0; \
  auto& name = ::edfcore::sim::shared_array<T, N>(&edf_shared_##name)

// Where a primitive stands in the source is part of its identity: lanes must meet at the same one.
#define EDF_SIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EDF_SIM_HERE) { edfcore::sim::block_barrier({file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffffu, EDF_SIM_HERE) {
  edfcore::sim::warp_meeting(edfcore::sim::Meeting::sync, mask, 0, 0, {file, line});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EDF_SIM_HERE) {
  const int first = edfcore::sim::lane() & ~(width - 1);
  return edfcore::sim::shuffle(mask, value, first + (source & (width - 1)), {file, line});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EDF_SIM_HERE) {
  const int lane = edfcore::sim::lane();
  const int source = lane - static_cast<int>(delta);
  return edfcore::sim::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, {file, line});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EDF_SIM_HERE) {
  const int lane = edfcore::sim::lane();
  const int source = lane + static_cast<int>(delta);
  return edfcore::sim::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, {file, line});
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, EDF_SIM_HERE) {
  const int lane = edfcore::sim::lane();
  const int source = lane ^ lane_mask;
  return edfcore::sim::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EDF_SIM_HERE) {
  using namespace edfcore::sim;
  return static_cast<unsigned>(warp_meeting(Meeting::ballot, mask, predicate != 0, 0, {file, line}));
}

inline int __any_sync(unsigned mask, int predicate, EDF_SIM_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

// Counts the lanes for which the predicate fails, so lanes that have left the kernel do not.
inline int __all_sync(unsigned mask, int predicate, EDF_SIM_HERE) {
  return __ballot_sync(mask, predicate == 0, file, line) == 0;
}

#undef EDF_SIM_HERE
