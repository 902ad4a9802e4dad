// Compiling and describing.
#include "graph/plan.h"

#include <algorithm>
#include <utility>

namespace edfcore {
namespace {

// How many bytes the values that a group reads or writes have, each counted once; those that stay inside do
// not count.
std::int64_t bytes_of(const Plan& plan, const Group& group) {
  std::vector<std::int32_t> values;
  for (std::int32_t s = group.first; s < group.last; ++s) {
    const TraceStep& step = plan.trace.steps[static_cast<std::size_t>(s)];
    values.insert(values.end(), step.in.begin(), step.in.end());
    values.insert(values.end(), step.out.begin(), step.out.end());
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  std::int64_t bytes = 0;
  for (const std::int32_t value : values)
    if (const Place::Kind kind = plan.places[static_cast<std::size_t>(value)].kind;
        kind != Place::block && kind != Place::nowhere)
      bytes += static_cast<std::int64_t>(spec_of(plan.trace, value).bytes());
  return bytes;
}

std::int64_t flops_of(const Plan& plan, const TraceStep& step) {
  const Small<Spec> in = specs_of(plan.trace, step.in), out = specs_of(plan.trace, step.out);
  if (step.op->flops) return step.op->flops(in, out, step.attrs);
  if (step.op->flags & op_view) return 0;
  std::int64_t most = 0;
  for (const Spec& spec : in) most = std::max(most, spec.shape.size());
  for (const Spec& spec : out) most = std::max(most, spec.shape.size());
  return most;
}

std::string where(const Plan& plan, const Place& place) {
  switch (place.kind) {
    case Place::arena:
      return text("@", place.offset);
    case Place::block:
      return "block";
    case Place::nowhere:
      return "-";
    case Place::slot:
      break;
  }
  const Slot& slot = plan.trace.slots[static_cast<std::size_t>(place.offset)];
  if (slot.constant) return "constant";
  const Role role = slot.role;
  return role == Role::computed ? "kept" : role == Role::parameter ? "parameter" : "leaf";
}

std::string named(const Plan& plan, std::int32_t value) {
  const TraceValue& v = plan.trace.values[static_cast<std::size_t>(value)];
  return text("%", value, " ", v.spec.shape, " ", where(plan, plan.places[static_cast<std::size_t>(value)]));
}

std::string named(const Plan& plan, const Small<std::int32_t>& values) {
  std::string names;
  for (const std::int32_t value : values) names += (names.empty() ? "" : ", ") + named(plan, value);
  return names;
}

}  // namespace

std::string grouped(std::int64_t n) {
  const std::string digits = std::to_string(n);
  std::string found;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) found += ',';
    found += digits[i];
  }
  return found;
}

Small<Spec> specs_of(const Trace& trace, const Small<std::int32_t>& values) {
  Small<Spec> specs;
  for (const std::int32_t value : values) specs.push_back(spec_of(trace, value));
  return specs;
}

static std::vector<Group> one_by_one(const Trace& trace) {
  std::vector<Group> groups;
  for (std::int32_t s = 0; s < static_cast<std::int32_t>(trace.steps.size()); ++s)
    groups.push_back({s, s + 1, false});
  return groups;
}

static std::size_t forward_steps(const Trace& trace) {
  return static_cast<std::size_t>(
      std::count_if(trace.steps.begin(), trace.steps.end(),
                    [](const TraceStep& step) { return step.phase == Phase::forward; }));
}

Plan compile(Trace trace, const CompileOptions& options) {
  Plan plan;
  const bool whole = options.stops == Stops::nowhere, updates_mix = options.stops != Stops::phases;
  drop_unread(trace);
  drop_copies(trace, whole);
  fold(trace);
  prune(trace);
  if (whole) join(trace);
  share(trace, whole);
  accumulate(trace, updates_mix);
  if (updates_mix) hasten_updates(trace, whole ? 0 : forward_steps(trace));
  if (!whole && updates_mix)
    for (TraceStep& step : trace.steps)
      if (step.phase == Phase::update) step.phase = Phase::backward;
  if (options.blocks) adjoin(trace);
  if (options.blocks) gather_updates(trace);
  plan.groups = options.blocks ? fuse(trace, whole) : one_by_one(trace);
  plan.trace = std::move(trace);
  place(plan, options.inplace);
  return plan;
}

std::int64_t Plan::flops() const {
  std::int64_t sum = 0;
  for (const TraceStep& step : trace.steps) sum += flops_of(*this, step);
  return sum;
}

std::int64_t Plan::bytes_moved() const {
  std::int64_t sum = 0;
  for (const Group& group : groups) sum += bytes_of(*this, group);
  return sum;
}

std::string Plan::describe() const {
  std::string lines = text(trace.steps.size(), " steps in ", groups.size(), " groups on ",
                           device_name(trace.device), ", ", grouped(flops()), " floating-point operations, ",
                           grouped(bytes_moved()), " bytes moved, arena of ", grouped(arena_bytes),
                           " bytes (", grouped(separate_bytes), " without sharing)\n");
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Group& group = groups[g];
    for (std::int32_t s = group.first; s < group.last; ++s) {
      const TraceStep& step = trace.steps[static_cast<std::size_t>(s)];
      const std::string inputs = named(*this, step.in);
      std::string op = step.op->name;
      if (step.written != step.op) op += text(" (", step.written->name, ", fused)");
      if (step.attrs.trans_a || step.attrs.trans_b)
        op += text(" ", step.attrs.trans_a ? "t" : "n", step.attrs.trans_b ? "t" : "n");
      const char* mark = group.last - group.first == 1 ? " "
                         : s == group.first            ? "/"
                         : s + 1 == group.last         ? "\\"
                                                       : "|";
      const std::int64_t own = scratch[static_cast<std::size_t>(s)];
      lines += text(g < 10    ? "  "
                    : g < 100 ? " "
                              : "",
                    g, " ", mark, " ", op, ": ", inputs, " -> ",
                    (step.op->flags & op_mutates) ? std::string("in place") : named(*this, step.out),
                    views[static_cast<std::size_t>(s)] ? " (the same memory)" : "",
                    own >= 0 ? text(", scratch @", own) : std::string(),
                    step.place < 0 ? "" : trace.places[static_cast<std::size_t>(step.place)], "\n");
    }
  }
  return lines;
}

}  // namespace edfcore
