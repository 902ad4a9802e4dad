// Recording runs of plans, and repeating them.
#include "graph/recordings.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace edfcore {

static std::atomic<std::int64_t> runs{0};

std::int64_t Recordings::repeated() { return runs.load(std::memory_order_relaxed); }

Recordings::~Recordings() {
  for (const Known& known : known_)
    if (known.recorded) device_->forget(known.recorded);
}

bool Recordings::repeat(Key key, void (*issue)(void*), void* context) {
  if (refused_) return false;
  const auto found =
      std::find_if(known_.begin(), known_.end(), [&](const Known& known) { return known.key == key; });
  if (found == known_.end()) {
    if (known_.size() == most) {
      if (known_.front().recorded) device_->forget(known_.front().recorded);
      known_.erase(known_.begin());
    }
    known_.push_back({std::move(key), nullptr});
    return false;
  }
  std::rotate(found, found + 1, known_.end());
  Known& known = known_.back();
  if (!known.recorded) {
    known.recorded = device_->record(issue, context);
    refused_ = !known.recorded;
    if (refused_) return false;
  }
  device_->repeat(known.recorded);
  runs.fetch_add(1, std::memory_order_relaxed);
  return true;
}

}  // namespace edfcore
