// Fibers: stacks of their own that are switched by hand, so that a block of 1,024 simulated threads costs
// nanoseconds a barrier and needs one host thread.
#pragma once

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define EDF_SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EDF_SIM_ASAN 1
#endif
#endif

#if defined(EDF_SIM_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace edfcore::sim {

struct Fiber {
  void* stack_pointer = nullptr;  // while it is not running
  char* stack = nullptr;          // lowest address, a guard page below it; null for the host's own stack
  size_t stack_size = 0;
  void* fake_stack = nullptr;  // ASan's
};

// A fiber that calls `body` when it is first switched to; `body` never returns.
Fiber* new_fiber(void (*body)(), int number);
// Forgets whatever the fiber was doing: the next switch to it calls `body` again.
void reset_fiber(Fiber& fiber, void (*body)(), int number);
// Suspends `from`, which must be the running one, and continues `to`.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace edfcore::sim
