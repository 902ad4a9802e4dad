// Laying out memory: values get places in one arena in the order in which they come to life, and give them
// back when the last group that reads them is done.
#include <algorithm>
#include <map>

#include "graph/plan.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

constexpr std::int64_t alignment = 64;

std::int64_t rounded(std::int64_t bytes) {
  return std::max<std::int64_t>((bytes + alignment - 1) / alignment * alignment, alignment);
}

// Free stretches of a line that grows at its end.
class Arena {
 public:
  std::int64_t take(std::int64_t bytes) {
    bytes = rounded(bytes);
    auto best = free_.end();
    // The smallest that is large enough; of the stretch at the end, which may be wanted whole, only then.
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const bool better = best == free_.end() || it->second < best->second;
      if (it->second >= bytes && better && (it->first + it->second < end_ || best == free_.end())) best = it;
    }
    if (best != free_.end()) {
      const auto [offset, size] = *best;
      free_.erase(best);
      if (size > bytes) free_.emplace(offset + bytes, size - bytes);
      return offset;
    }
    // Nothing is large enough: grow, beginning with the free stretch at the end where there is one.
    std::int64_t offset = end_;
    if (!free_.empty()) {
      const auto last = std::prev(free_.end());
      if (last->first + last->second == end_) {
        offset = last->first;
        free_.erase(last);
      }
    }
    end_ = offset + bytes;
    return offset;
  }

  void give_back(std::int64_t offset, std::int64_t bytes) {
    auto [at, made] = free_.emplace(offset, rounded(bytes));
    const auto next = std::next(at);
    if (next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at != free_.begin()) {
      const auto before = std::prev(at);
      if (before->first + before->second == at->first) {
        before->second += at->second;
        free_.erase(at);
      }
    }
  }

  std::int64_t size() const { return end_; }

 private:
  std::map<std::int64_t, std::int64_t> free_;  // offset to size
  std::int64_t end_ = 0;
};

struct Life {
  std::int32_t root = -1;       // the value whose memory this one is
  std::int32_t last_step = -1;  // that reads the memory of a root; `forever` where it is looked at afterwards
  std::int32_t users = 0;       // groups that touch it
  std::int32_t last_group = -1;
  bool escapes = false;  // is read after its group, or looked at
};

constexpr std::int32_t forever = INT32_MAX;

}  // namespace

void place(Plan& plan, bool inplace) {
  const Trace& trace = plan.trace;
  const std::size_t n = trace.values.size();
  plan.places.assign(n, {});
  plan.scratch.assign(trace.steps.size(), -1);
  plan.views.assign(trace.steps.size(), false);
  std::vector<Life> lives(n);
  const auto life = [&](std::int32_t value) -> Life& { return lives[static_cast<std::size_t>(value)]; };
  const auto value = [&](std::int32_t v) -> const TraceValue& {
    return trace.values[static_cast<std::size_t>(v)];
  };
  const auto place_of = [&](std::int32_t v) -> Place& { return plan.places[static_cast<std::size_t>(v)]; };
  const auto bytes_of = [&](std::int32_t v) { return static_cast<std::int64_t>(value(v).spec.bytes()); };

  // Which values are other values' memory: views of what a step made, and parameters after their update.
  for (std::size_t v = 0; v < n; ++v) lives[v].root = static_cast<std::int32_t>(v);
  std::vector<std::int32_t> group_of(trace.steps.size());
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    const Group& group = plan.groups[g];
    for (std::int32_t s = group.first; s < group.last; ++s) {
      const TraceStep& step = trace.steps[static_cast<std::size_t>(s)];
      group_of[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(g);
      const bool mutates = (step.op->flags & op_mutates) != 0;
      const bool outside = value(life(step.in[0]).root).slot >= 0 || value(step.out[0]).slot >= 0;
      const bool view = (step.op->flags & op_view) && !outside;
      plan.views[static_cast<std::size_t>(s)] = view;
      if (mutates || view) life(step.out[0]).root = life(step.in[0]).root;
    }
  }

  // Until when each is read, and whether outside of the group that makes it.
  std::vector<std::int32_t> made_in(n, -1);
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    for (const std::int32_t v : step.in) {
      Life& l = life(life(v).root);
      l.last_step = std::max(l.last_step, static_cast<std::int32_t>(s));
      const std::int32_t made = made_in[static_cast<std::size_t>(life(v).root)];
      if (made != group_of[s]) l.escapes = true;
    }
    for (const std::int32_t v : step.out) {
      const std::int32_t root = life(v).root;
      if (made_in[static_cast<std::size_t>(root)] < 0) made_in[static_cast<std::size_t>(root)] = group_of[s];
      if (static_cast<std::int32_t>(s) < plan.groups[static_cast<std::size_t>(group_of[s])].blocks_from())
        life(root).escapes = true;
      if (life(root).last_step < 0) life(root).last_step = static_cast<std::int32_t>(s);
    }
  }
  for (std::size_t v = 0; v < n; ++v)
    if (trace.values[v].slot >= 0) {
      lives[v].escapes = true;
      lives[v].last_step = forever;
    }

  Arena arena;
  std::vector<std::vector<std::int32_t>> dying(
      plan.groups.size());  // roots in the arena whose last group this is
  const auto dies_in = [&](std::int32_t root) {
    const std::int32_t last = life(root).last_step;
    return last == forever ? forever : group_of[static_cast<std::size_t>(last)];
  };
  std::vector<bool> taken_over(n);
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    const Group& group = plan.groups[g];
    const TraceStep& head = trace.steps[static_cast<std::size_t>(group.first)];
    std::int64_t blocks = 0;
    std::vector<std::pair<std::int64_t, std::int64_t>> scratches;
    for (std::int32_t s = group.first; s < group.last; ++s) {
      const TraceStep& step = trace.steps[static_cast<std::size_t>(s)];
      for (const std::int32_t v : step.out) {
        if (life(v).root != v) continue;
        if (step.out.size() > 1 && life(v).last_step == s) continue;  // nobody reads it
        if (!life(v).escapes) {
          place_of(v) = {Place::block, blocks++};
          continue;
        }
        plan.separate_bytes += rounded(bytes_of(v));
        if (value(v).slot >= 0) continue;
        Place chosen{Place::arena, -1};
        const std::int32_t from = inplace && v == step.out[0] && step.op->inplace >= 0
                                      ? life(step.in[static_cast<std::size_t>(step.op->inplace)]).root
                                      : -1;
        // While a part of a group is at work, nobody may write what its head reads.
        const bool read_by_head =
            group.headed &&
            std::any_of(head.in.begin(), head.in.end(), [&](std::int32_t i) { return life(i).root == from; });
        int reads = 0;
        for (std::size_t i = 0; i < step.in.size(); ++i)
          reads += from >= 0 && life(step.in[i]).root == from && step.op->reads(i);
        if (reads == 1 && !read_by_head && place_of(from).kind == Place::arena && life(from).last_step == s &&
            bytes_of(from) == bytes_of(v) && !taken_over[static_cast<std::size_t>(from)]) {
          chosen.offset = place_of(from).offset;
          taken_over[static_cast<std::size_t>(from)] = true;
        } else {
          chosen.offset = arena.take(bytes_of(v));
        }
        place_of(v) = chosen;
        const std::int32_t last = dies_in(v);
        if (last != forever) dying[static_cast<std::size_t>(last)].push_back(v);
      }
    }
    // Scratch comes last: between values that live on, it would leave holes. What goes block by block brings
    // its own.
    for (std::int32_t i = group.first; i < group.scratch_until(); ++i) {
      const TraceStep& step = trace.steps[static_cast<std::size_t>(i)];
      const std::int64_t bytes = scratch_of(*step.op, specs_of(trace, step.in), specs_of(trace, step.out),
                                            step.attrs, trace.device.type);
      if (bytes <= 0) continue;
      const std::int64_t offset = arena.take(bytes);
      plan.scratch[static_cast<std::size_t>(i)] = offset;
      scratches.emplace_back(offset, bytes);
    }
    for (const auto& [offset, bytes] : scratches) arena.give_back(offset, bytes);
    for (const std::int32_t v : dying[g])
      if (!taken_over[static_cast<std::size_t>(v)]) arena.give_back(place_of(v).offset, bytes_of(v));
  }
  for (std::size_t v = 0; v < n; ++v) {
    const std::int32_t root = lives[v].root;
    const std::int32_t slot = trace.values[static_cast<std::size_t>(root)].slot;
    plan.places[v] = slot >= 0 ? Place{Place::slot, slot} : plan.places[static_cast<std::size_t>(root)];
  }
  plan.arena_bytes = arena.size();
}

}  // namespace edfcore
