// The order of steps, and where updates stand in it.
#include <algorithm>
#include <numeric>
#include <utility>

#include "graph/plan.h"

namespace edfcore {

void reorder(Trace& trace, const std::vector<std::size_t>& keys) {
  if (std::is_sorted(keys.begin(), keys.end())) return;
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  // Round by round of the permutation, within the memory that they have.
  for (std::size_t first = 0; first < order.size(); ++first) {
    if (order[first] == first) continue;
    TraceStep step = std::move(trace.steps[first]);
    std::size_t at = first;
    while (order[at] != first) {
      trace.steps[at] = std::move(trace.steps[order[at]]);
      at = std::exchange(order[at], at);
    }
    trace.steps[at] = std::move(step);
    order[at] = at;
  }
}

void hasten_updates(Trace& trace, std::size_t least) {
  const std::size_t n = trace.steps.size();
  std::size_t checked = least > 0 ? least - 1 : 0;  // an error in the data leaves all parameters alone
  for (std::size_t s = 0; s < n; ++s)
    if (trace.steps[s].phase == Phase::forward && (trace.steps[s].op->flags & op_checks))
      checked = std::max(checked, s);
  std::vector<std::size_t> last_touch(trace.values.size(), 0), defined(trace.values.size(), 0), behind(n);
  for (std::size_t s = 0; s < n; ++s) {
    const TraceStep& step = trace.steps[s];
    std::size_t after = s;
    if (step.op->flags & op_mutates) {
      after = std::max(std::min(checked, s), last_touch[static_cast<std::size_t>(step.in[0])]);
      for (const std::int32_t value : step.in)
        after = std::max(after, defined[static_cast<std::size_t>(value)]);
    }
    for (const std::int32_t value : step.in) {
      std::size_t& last = last_touch[static_cast<std::size_t>(value)];
      last = std::max(last, after);
    }
    for (const std::int32_t value : step.out) defined[static_cast<std::size_t>(value)] = after;
    behind[s] = after;
  }
  reorder(trace, behind);
}

void gather_updates(Trace& trace) {
  if (trace.device.type == DeviceType::cpu) return;
  const std::size_t n = trace.steps.size();
  std::vector<std::size_t> last_touch(trace.values.size(), 0);
  std::vector<bool> updated(trace.values.size());
  const auto at = [](std::int32_t value) { return static_cast<std::size_t>(value); };
  for (std::size_t s = 0; s < n; ++s) {
    const TraceStep& step = trace.steps[s];
    for (const Small<std::int32_t>* values : {&step.in, &step.out})
      for (const std::int32_t value : *values) last_touch[at(value)] = s;
    if (step.op->flags & op_mutates) updated[at(step.in[0])] = true;
  }
  std::vector<std::size_t> keys(n);
  for (std::size_t s = 0; s < n; ++s) {
    TraceStep& step = trace.steps[s];
    keys[s] = s;
    const Spec& spec = spec_of(trace, step.out[0]);
    if (!step.op->cuda_many || is_half(spec.dtype) || spec.shape.size() >= gathered_elements) continue;
    const bool last = last_touch[at(step.in[0])] == s && last_touch[at(step.out[0])] == s;
    const bool reads_updated = std::any_of(step.in.begin() + 1, step.in.end(),
                                           [&](std::int32_t value) -> bool { return updated[at(value)]; });
    step.gathered = last && !reads_updated;
    if (step.gathered) keys[s] = n + static_cast<std::size_t>(spec.dtype);
  }
  reorder(trace, keys);
}

}  // namespace edfcore
