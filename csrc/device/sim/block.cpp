// Runs a grid: one block after the other, the threads of a block as fibers in random order between barriers,
// and every disagreement among threads about where they wait is reported as a fault.
//
// A thread that never waits costs no switch: one fiber runs thread after thread. A thread that waits keeps
// that fiber, and another one goes on with the rest.
#include <stdlib.h>

#include <mutex>
#include <numeric>
#include <sstream>
#include <string>

#include "core/error.h"
#include "device/sim/fiber.h"
#include "device/sim/memory.h"
#include "device/sim/shared.h"
#include "device/sim/sim.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace edfcore::sim {
namespace {

constexpr int max_threads = 1024;
constexpr int warp_size = 32;

enum class State : uint8_t { ready, at_barrier, at_meeting, gone };

struct Thread {
  uint3 index;
  State state;
  Fiber* fiber;  // null before it starts and after it ends
  Site site;     // where it waits
  // of a meeting
  Meeting meeting;
  unsigned mask;
  uint64_t value;
  uint64_t result;
  int source;
};

struct Warp {
  unsigned present;  // lanes that have not left the kernel
  unsigned waiting;  // lanes at a meeting
};

struct Device {
  std::mutex mutex;
  uint64_t random = 0;

  // the launch
  LaunchConfig config;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  int n_threads = 0;
  bool failed = false;
  std::string message;

  // the block
  Thread threads[max_threads];
  Warp warps[max_threads / warp_size];
  Thread* current = nullptr;
  uint16_t ready[max_threads];  // numbers of threads that can run, in no order
  int n_ready = 0;
  int n_gone = 0;

  Fiber host;
  Fiber* fibers[max_threads];  // all, kept from launch to launch
  int n_fibers = 0;
  Fiber* idle[max_threads];  // those that carry no thread
  int n_idle = 0;
  Thread* handed = nullptr;  // what the fiber switched to is to start with
};

Device device;

uint64_t random_bits() {  // xorshift64*
  uint64_t x = device.random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  device.random = x;
  return x * 0x2545f4914f6cdd1dull;
}

void seed_random(uint64_t seed) {
  device.random = (seed + 1) * 0x9e3779b97f4a7c15ull | 1;
  for (int i = 0; i < 8; ++i) random_bits();
}

uint32_t random_below(uint32_t n) { return static_cast<uint32_t>(((random_bits() >> 32) * n) >> 32); }

int number(const Thread& thread) { return static_cast<int>(&thread - device.threads); }

std::string name(uint3 index) { return text("(", index.x, ", ", index.y, ", ", index.z, ")"); }
std::string name(Site site) { return text(site.file, ":", site.line); }
std::string name(const Thread& thread) {
  std::string out = text("thread ", name(thread.index));
  if (thread.state == State::gone) return out + " has left the kernel";
  if (thread.state == State::at_barrier) return text(out, " waits in __syncthreads at ", name(thread.site));
  if (thread.state == State::ready) return out + " runs";
  const char* what = thread.meeting == Meeting::sync      ? "__syncwarp"
                     : thread.meeting == Meeting::shuffle ? "a warp shuffle"
                                                          : "a warp vote";
  std::ostringstream mask;
  mask << std::hex << thread.mask;
  return text(out, " waits in ", what, " at ", name(thread.site), " (mask 0x", mask.str(), ")");
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

void fail_launch(const std::string& what) {
  if (device.failed) return;
  device.failed = true;
  device.message =
      text("kernel launched at ", name(device.config.site), ", block ", name(blockIdx), ": ", what);
}

// Nobody can run and somebody has not left: says who waits for whom.
void report_divergence() {
  const Thread* waiting = nullptr;
  for (int i = 0; i < device.n_threads; ++i) {
    const Thread& t = device.threads[i];
    if (t.state == State::at_meeting || (t.state == State::at_barrier && waiting == nullptr)) waiting = &t;
    if (t.state == State::at_meeting) break;
  }
  const Thread* other = nullptr;
  if (waiting->state == State::at_meeting) {  // a lane that it waits for
    const int first = number(*waiting) / warp_size * warp_size;
    for (int i = first; i < first + warp_size && i < device.n_threads && other == nullptr; ++i) {
      const Thread& t = device.threads[i];
      const bool met = t.state == State::at_meeting && t.mask == waiting->mask && same(t.site, waiting->site);
      if ((waiting->mask >> (i - first) & 1) != 0 && t.state != State::gone && !met) other = &t;
    }
  }
  for (int i = 0; i < device.n_threads && other == nullptr; ++i) {
    const Thread& t = device.threads[i];
    if (t.state != State::at_barrier || !same(t.site, waiting->site)) other = &t;
  }
  fail_launch(
      text("divergent barrier: ", name(*waiting), " while ", other != nullptr ? name(*other) : "none does"));
}

void make_ready(Thread& thread) {
  thread.state = State::ready;
  device.ready[device.n_ready++] = static_cast<uint16_t>(number(thread));
}

// True when every thread of the block stands at one barrier, which then opens.
bool open_barrier() {
  if (device.n_gone == device.n_threads || device.failed) return false;
  for (int i = 0; i < device.n_threads; ++i) {
    const Thread& t = device.threads[i];
    if (t.state != State::at_barrier || !same(t.site, device.threads[0].site)) {
      report_divergence();
      return false;
    }
  }
  for (int i = 0; i < device.n_threads; ++i) make_ready(device.threads[i]);
  return true;
}

// The thread that runs next, or null when the block is done or has failed.
Thread* next_thread() {
  if (device.failed || (device.n_ready == 0 && !open_barrier())) return nullptr;
  const uint32_t pick = random_below(static_cast<uint32_t>(device.n_ready));
  const uint16_t chosen = device.ready[pick];
  device.ready[pick] = device.ready[--device.n_ready];
  return &device.threads[chosen];
}

Warp& warp_of(const Thread& thread) { return device.warps[number(thread) / warp_size]; }

// Ends the meeting of the lanes in `mask` if all of them are there.
void try_meeting(Warp& warp, const Thread& like) {
  const unsigned members = like.mask & warp.present;
  if ((warp.waiting & members) != members) return;
  Thread* lanes = &device.threads[(&warp - device.warps) * warp_size];
  const unsigned mask = like.mask;
  const Site site = like.site;
  uint64_t ballot = 0;
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    const Thread& t = lanes[i];
    if (t.mask != mask || !same(t.site, site)) return;
    ballot |= (t.value & 1) << i;
  }
  const Meeting meeting = like.meeting;
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    Thread& t = lanes[__builtin_ctz(rest)];
    const bool there = t.source >= 0 && t.source < warp_size && (members >> t.source & 1) != 0;
    t.result = meeting == Meeting::ballot ? ballot : there ? lanes[t.source].value : ~uint64_t{0};
    make_ready(t);
  }
  warp.waiting &= ~members;
}

// The fiber that runs `thread`: its own, or for one that has not begun an idle one, which finds it in
// `handed`.
Fiber& fiber_of(Thread& thread);

// The running thread waits (or is ready to be picked again); returns when it is its turn.
void wait_for_turn(Thread& self) {
  Thread* next = next_thread();
  if (next != &self) switch_fiber(*self.fiber, next != nullptr ? fiber_of(*next) : device.host);
  device.current = &self;
  threadIdx = self.index;
}

[[noreturn]] void fail_thread(const std::string& what) {
  fail_launch(text("thread ", name(device.current->index), " ", what));
  switch_fiber(*device.current->fiber, device.host);
  abort();  // a failed launch is never continued
}

void leave(Thread& self) {
  self.state = State::gone;
  self.fiber = nullptr;
  ++device.n_gone;
  Warp& warp = warp_of(self);
  const int lane = number(self) % warp_size;
  warp.present &= ~(1u << lane);
  if (warp.waiting == 0) return;
  const Thread* lanes = &self - lane;
  for (unsigned rest = warp.waiting; rest != 0; rest &= rest - 1) {  // those who waited for this lane alone
    const int i = __builtin_ctz(rest);
    if ((warp.waiting >> i & 1) != 0 && (lanes[i].mask >> lane & 1) != 0) try_meeting(warp, lanes[i]);
  }
}

// What every fiber runs: threads that have not begun, one after the other, until one that has takes over.
void fiber_body() {
  for (;;) {
    Thread* thread = device.handed;
    Fiber* self = thread->fiber;
    for (;;) {
      device.current = thread;
      threadIdx = thread->index;
      device.body(device.context);
      leave(*thread);
      thread = next_thread();
      if (thread == nullptr || thread->fiber != nullptr) break;
      thread->fiber = self;
    }
    device.idle[device.n_idle++] = self;
    switch_fiber(*self, thread != nullptr ? *thread->fiber : device.host);
  }
}

Fiber& fiber_of(Thread& thread) {
  if (thread.fiber != nullptr) return *thread.fiber;
  if (device.n_idle == 0) {
    Fiber* made = new_fiber(&fiber_body, device.n_fibers);
    device.fibers[device.n_fibers++] = made;
    device.idle[device.n_idle++] = made;
  }
  thread.fiber = device.idle[--device.n_idle];
  device.handed = &thread;
  return *thread.fiber;
}

// Fibers that a failed launch left in the middle of a kernel are made new.
void reset_fibers() {
  for (int i = 0; i < device.n_fibers; ++i) {
    reset_fiber(*device.fibers[i], &fiber_body, i);
    device.idle[i] = device.fibers[i];
  }
  device.n_idle = device.n_fibers;
}

void run_block() {
  for (int i = 0; i < device.n_threads; ++i) {
    device.threads[i].fiber = nullptr;
    device.threads[i].state = State::ready;
    device.ready[i] = static_cast<uint16_t>(i);
  }
  for (int first = 0; first < device.n_threads; first += warp_size) {
    const int lanes = device.n_threads - first;
    device.warps[first / warp_size] = {lanes >= warp_size ? ~0u : (1u << lanes) - 1, 0};
  }
  device.n_ready = device.n_threads;
  device.n_gone = 0;
  begin_shared_block();
  switch_fiber(device.host, fiber_of(*next_thread()));
  if (!device.failed) {
    const std::string overrun = end_shared_block();
    if (!overrun.empty()) fail_launch(overrun);
  }
}

bool valid(const LaunchConfig& c) {
  const auto threads = uint64_t{c.block.x} * c.block.y * c.block.z;
  return threads >= 1 && threads <= max_threads && c.block.z <= 64 && c.grid.x >= 1 &&
         c.grid.x <= 0x7fffffffu && c.grid.y >= 1 && c.grid.y <= 65535 && c.grid.z >= 1 && c.grid.z <= 65535;
}

}  // namespace

void run_grid(const LaunchConfig& config, void (*body)(void*), void* context) {
  const std::lock_guard lock(device.mutex);
  if (faulted()) return;
  if (!valid(config)) {
    set_error(cudaErrorInvalidConfiguration);
    return;
  }
  const size_t limit = dynamic_shared_limit(config.kernel);
  if (config.shared_bytes > limit) {
    set_error(cudaErrorInvalidValue);
    return;
  }
  if (!note_launch(config.site.file)) return;
  if (device.random == 0) {
    const char* seed = getenv("EDFCORE_SIM_SEED");
    seed_random(seed != nullptr ? strtoull(seed, nullptr, 10) : 0);
  }
  device.config = config;
  device.body = body;
  device.context = context;
  device.failed = false;
  device.host.stack_size = 0;  // another host thread may launch this time
  device.n_threads = static_cast<int>(config.block.x * config.block.y * config.block.z);
  for (int i = 0; i < device.n_threads; ++i) {
    const auto n = static_cast<unsigned>(i);
    device.threads[i].index = {n % config.block.x, n / config.block.x % config.block.y,
                               n / (config.block.x * config.block.y)};
  }
  blockDim = config.block;
  gridDim = config.grid;
  begin_shared_launch(config.shared_bytes, limit);

  // Blocks in an order that no kernel may rely on: a random start and a stride that visits all.
  const uint64_t blocks = uint64_t{config.grid.x} * config.grid.y * config.grid.z;
  uint64_t stride = random_bits() % blocks;
  while (std::gcd(stride, blocks) != 1) ++stride;
  uint64_t block = random_bits() % blocks;
  for (uint64_t i = 0; i < blocks && !device.failed; ++i) {
    blockIdx = {static_cast<unsigned>(block % config.grid.x),
                static_cast<unsigned>(block / config.grid.x % config.grid.y),
                static_cast<unsigned>(block / (uint64_t{config.grid.x} * config.grid.y))};
    run_block();
    block = (block + stride) % blocks;
  }
  end_shared_launch();
  if (device.failed) {
    reset_fibers();
    set_fault(cudaErrorLaunchFailure, device.message);
  }
}

void block_barrier(Site site) {
  Thread& self = *device.current;
  self.state = State::at_barrier;
  self.site = site;
  wait_for_turn(self);
}

int lane() { return number(*device.current) % warp_size; }

uint64_t warp_meeting(Meeting meeting, unsigned mask, uint64_t value, int source, Site site) {
  Thread& self = *device.current;
  const unsigned bit = 1u << (number(self) % warp_size);
  if ((mask & bit) == 0) fail_thread(text("is not in the mask that it names at ", name(site)));
  self.state = State::at_meeting;
  self.meeting = meeting;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.site = site;
  Warp& warp = warp_of(self);
  warp.waiting |= bit;
  try_meeting(warp, self);
  wait_for_turn(self);
  return self.result;
}

void* shared_array(const void* identity, size_t bytes, size_t align) {
  void* data = find_shared(identity, bytes, align);
  if (data == nullptr) fail_thread("declares more shared memory than a block may have");
  return data;
}

void* dynamic_shared() {
  void* data = find_dynamic_shared();
  if (data == nullptr) fail_thread("uses dynamic shared memory, but the launch asked for none");
  return data;
}

void set_seed(uint64_t seed) {
  const std::lock_guard lock(device.mutex);
  seed_random(seed);
}

}  // namespace edfcore::sim
