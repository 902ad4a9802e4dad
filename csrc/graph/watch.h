// Watching what runs: the first NaN or infinity, and how long each op takes. Off, it costs one look at a
// flag.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "ops/op.h"

namespace edfcore {

struct Watch {
  std::atomic<bool> on{false};  // any of the two
  std::atomic<bool> nan{false};
  std::atomic<bool> timing{false};
};
Watch& watch();

void set_watch_nan(bool on);

// Times from here on, and what was timed since then.
struct TimedOp {
  const char* op;
  const char* phase;  // "forward", "backward", "plan"
  std::string shape;  // of the output
  std::int64_t begin_ns, length_ns;
};
void start_timing();
std::vector<TimedOp> stop_timing();

// Around the launch of an op: does what is asked for. `ended` throws a data error when the op made the first
// value that is not finite, with the range of its inputs. On a GPU, both wait for the device.
class Watched {
 public:
  Watched(const Op& op, const char* phase, Device device);
  void ended(std::span<const View> in, std::span<const View> out) const;

 private:
  const Op& op_;
  const char* phase_;
  Device device_;
  std::int64_t begin_ns_ = 0;
};

}  // namespace edfcore
