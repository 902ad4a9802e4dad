// Pruning, ordering, grouping and describing.
#include "graph/plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace edfcore {
namespace {

const Spec& spec_of(const Trace& trace, std::int32_t value) {
  return trace.values[static_cast<std::size_t>(value)].spec;
}

// A step whose outputs and inputs are the same elements, one by one.
bool is_elementwise(const Trace& trace, const TraceStep& step) {
  if (!(step.op->flags & op_elementwise)) return false;
  const Shape& shape = spec_of(trace, step.out[0]).shape;
  for (const std::int32_t value : step.in)
    if (!(spec_of(trace, value).shape == shape)) return false;
  return true;
}

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
    if (plan.places[static_cast<std::size_t>(value)].kind != Place::block)
      bytes += static_cast<std::int64_t>(spec_of(plan.trace, value).bytes());
  return bytes;
}

std::int64_t flops_of(const Plan& plan, const TraceStep& step) {
  Small<Spec> in, out;
  for (const std::int32_t value : step.in) in.push_back(spec_of(plan.trace, value));
  for (const std::int32_t value : step.out) out.push_back(spec_of(plan.trace, value));
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
  const Role role = plan.trace.slots[static_cast<std::size_t>(place.offset)].role;
  return role == Role::computed ? "kept" : role == Role::parameter ? "parameter" : "leaf";
}

std::string named(const Plan& plan, std::int32_t value) {
  const TraceValue& v = plan.trace.values[static_cast<std::size_t>(value)];
  return text("%", value, " ", v.spec.shape, " ", where(plan, plan.places[static_cast<std::size_t>(value)]));
}

std::string thousands(std::int64_t n) {
  const std::string digits = std::to_string(n);
  std::string grouped;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

// Puts every step behind the one that is named for it: itself, or an earlier one that stays.
void reorder(Trace& trace, const std::vector<std::size_t>& behind) {
  std::vector<std::size_t> order(behind.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return behind[a] < behind[b]; });
  std::vector<TraceStep> steps;
  steps.reserve(order.size());
  for (const std::size_t s : order) steps.push_back(std::move(trace.steps[s]));
  trace.steps = std::move(steps);
}

}  // namespace

void drop_unread(Trace& trace) {
  for (TraceStep& step : trace.steps) {
    for (std::size_t i = 0; i < step.in.size(); ++i) {
      if (!(step.op->unread >> i & 1u)) continue;
      for (std::size_t j = 0; j < step.in.size(); ++j)
        if (!(step.op->unread >> j & 1u) && spec_of(trace, step.in[j]) == spec_of(trace, step.in[i])) {
          step.in[i] = step.in[j];
          break;
        }
    }
  }
}

void prune(Trace& trace) {
  std::vector<bool> needed(trace.values.size());
  for (std::size_t v = 0; v < trace.values.size(); ++v) needed[v] = trace.values[v].slot >= 0;
  std::vector<bool> runs(trace.steps.size());
  for (std::size_t s = trace.steps.size(); s-- > 0;) {
    const TraceStep& step = trace.steps[s];
    bool wanted =
        (step.op->flags & op_mutates) || (step.phase == Phase::forward && (step.op->flags & op_checks));
    for (const std::int32_t value : step.out) wanted |= needed[static_cast<std::size_t>(value)];
    runs[s] = wanted;
    if (!wanted) continue;
    for (const std::int32_t value : step.in) needed[static_cast<std::size_t>(value)] = true;
  }
  std::size_t kept = 0;
  for (std::size_t s = 0; s < trace.steps.size(); ++s)
    if (runs[s]) std::swap(trace.steps[kept++], trace.steps[s]);
  trace.steps.resize(kept);
}

void accumulate(Trace& trace) {
  const std::size_t n = trace.values.size();
  std::vector<std::int32_t> readers(n, 0), maker(n, -1);
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    for (const std::int32_t value : trace.steps[s].in) ++readers[static_cast<std::size_t>(value)];
    for (const std::int32_t value : trace.steps[s].out)
      maker[static_cast<std::size_t>(value)] = static_cast<std::int32_t>(s);
  }
  // The step of this phase that makes a value for one reader alone.
  const auto own = [&](std::int32_t value, Phase phase) -> TraceStep* {
    const auto v = static_cast<std::size_t>(value);
    if (maker[v] < 0 || readers[v] != 1 || trace.values[v].slot >= 0) return nullptr;
    TraceStep& step = trace.steps[static_cast<std::size_t>(maker[v])];
    return step.op && step.phase == phase ? &step : nullptr;
  };
  const auto most = [&](const TraceStep& step) -> std::int64_t {
    if (!step.op->accumulates) return 0;
    Small<Spec> in;
    for (const std::int32_t i : step.in) in.push_back(spec_of(trace, i));
    return step.op->accumulates->most(in, step.attrs, trace.device.type);
  };
  // The sum so far, if that is a step of its own with the like of `step`, and has room for it.
  const auto sum_of = [&](std::int32_t value, const TraceStep& step) -> TraceStep* {
    TraceStep* before = own(value, step.phase);
    if (!before || before->op != step.op->accumulates->into) return nullptr;
    const std::size_t count = step.in.size();
    for (std::size_t i = 0; i < count; ++i)
      if (!(spec_of(trace, before->in[1 + i]) == spec_of(trace, step.in[i]))) return nullptr;
    const bool room = before->in.size() - 1 < static_cast<std::size_t>(most(step)) * count;
    return room && before->attrs.trans_a == step.attrs.trans_a && before->attrs.trans_b == step.attrs.trans_b
               ? before
               : nullptr;
  };
  for (TraceStep& sum : trace.steps) {
    if (!sum.op || !(sum.op->flags & op_sums) || !is_elementwise(trace, sum)) continue;
    for (std::size_t i : {std::size_t{1}, std::size_t{0}}) {  // what was made last first
      TraceStep* step = sum.in[0] == sum.in[1] ? nullptr : own(sum.in[i], sum.phase);
      if (!step || most(*step) == 0) continue;
      Small<std::int32_t> in;
      TraceStep* before = sum_of(sum.in[1 - i], *step);
      if (before)
        in = std::move(before->in);
      else
        in.push_back(sum.in[1 - i]);
      for (const std::int32_t value : step->in) in.push_back(value);
      sum.op = step->op->accumulates->into;
      sum.written = step->written;
      sum.attrs = step->attrs;
      sum.in = std::move(in);
      step->op = nullptr;
      if (before) before->op = nullptr;
      break;
    }
  }
  std::erase_if(trace.steps, [](const TraceStep& step) { return !step.op; });
}

void share(Trace& trace) {
  // A step in the place of its input, with what its op is asked for beside it.
  const auto specs = [&](const TraceStep& step) {
    Small<Spec> in;
    for (const std::int32_t value : step.in) in.push_back(spec_of(trace, value));
    return in;
  };
  const auto shared = [&](const TraceStep& step) -> const Sharing* {
    const Sharing* sharing = step.op->shares;
    return sharing && sharing->worth(specs(step), step.attrs, trace.device.type) ? sharing : nullptr;
  };
  std::map<std::pair<const Op*, std::int32_t>, std::pair<int, std::int32_t>> uses;  // how often; the value
  for (const TraceStep& step : trace.steps)
    if (const Sharing* s = shared(step))
      ++uses.emplace(std::pair(s->step, step.in[static_cast<std::size_t>(s->input)]), std::pair(0, -1))
            .first->second.first;
  std::vector<TraceStep> steps;
  steps.reserve(trace.steps.size());
  for (TraceStep& step : trace.steps) {
    if (const Sharing* s = shared(step)) {
      std::int32_t& input = step.in[static_cast<std::size_t>(s->input)];
      auto& [count, made] = uses.at({s->step, input});
      if (count > 1) {
        if (made < 0) {
          TraceStep own;
          own.op = own.written = s->step;
          own.phase = step.phase;
          own.place = step.place;
          Spec out;
          Inference inference{
              *own.op, {&trace.values[static_cast<std::size_t>(input)].spec, 1}, own.attrs, {&out, 1}};
          own.op->infer(inference);
          made = static_cast<std::int32_t>(trace.values.size());
          trace.values.push_back({out});
          own.in.push_back(input);
          own.out.push_back(made);
          steps.push_back(std::move(own));
        }
        input = made;
        s->attrs(step.attrs);
      }
    }
    steps.push_back(std::move(step));
  }
  trace.steps = std::move(steps);
}

void adjoin(Trace& trace) {
  if (trace.device.type != DeviceType::cpu) return;
  constexpr std::size_t nowhere = SIZE_MAX;
  const std::size_t n = trace.steps.size();
  std::vector<std::size_t> defined(trace.values.size(), 0), headed_by(trace.values.size(), nowhere);
  std::vector<std::size_t> after(n);  // behind which step each one stands
  for (std::size_t s = 0; s < n; ++s) {
    const TraceStep& step = trace.steps[s];
    const auto out = static_cast<std::size_t>(step.out[0]);
    after[s] = s;
    if (step.op->flags & op_finishes) {
      headed_by[out] = s;
    } else if (is_elementwise(trace, step) && !(step.op->flags & op_mutates)) {
      std::size_t latest = 0;
      for (const std::int32_t value : step.in)
        latest = std::max(latest, defined[static_cast<std::size_t>(value)]);
      const bool reads_it = std::any_of(step.in.begin(), step.in.end(), [&](std::int32_t value) {
        return headed_by[static_cast<std::size_t>(value)] == latest;
      });
      if (reads_it && trace.steps[latest].phase == step.phase) headed_by[out] = after[s] = latest;
    }
    for (const std::int32_t value : step.out) defined[static_cast<std::size_t>(value)] = after[s];
  }
  reorder(trace, after);
}

void hasten_updates(Trace& trace) {
  const std::size_t n = trace.steps.size();
  std::vector<std::size_t> last_touch(trace.values.size(), 0), defined(trace.values.size(), 0), behind(n);
  for (std::size_t s = 0; s < n; ++s) {
    const TraceStep& step = trace.steps[s];
    std::size_t after = s;
    if (step.op->flags & op_mutates) {
      after = last_touch[static_cast<std::size_t>(step.in[0])];
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

static std::vector<Group> one_by_one(const Trace& trace) {
  std::vector<Group> groups;
  for (std::int32_t s = 0; s < static_cast<std::int32_t>(trace.steps.size()); ++s)
    groups.push_back({s, s + 1, false});
  return groups;
}

std::vector<Group> fuse(const Trace& trace, bool whole) {
  std::vector<Group> groups;
  const auto count = static_cast<std::int32_t>(trace.steps.size());
  const bool on_cpu = trace.device.type == DeviceType::cpu;
  for (std::int32_t s = 0; s < count;) {
    Group group{s, s + 1};
    const TraceStep& first = trace.steps[static_cast<std::size_t>(s)];
    const bool heads = (first.op->flags & op_finishes) != 0;
    // Other parts of the head are still at work: nobody may write what it reads.
    const auto fits = [&](const TraceStep& next) {
      return is_elementwise(trace, next) && (whole || next.phase == first.phase) &&
             spec_of(trace, next.out[0]).shape.size() == spec_of(trace, first.out[0]).shape.size() &&
             !(heads && (next.op->flags & op_mutates) &&
               std::count(first.in.begin(), first.in.end(), next.in[0]) > 0);
    };
    if (on_cpu && (heads || is_elementwise(trace, first)))
      while (group.last < count && fits(trace.steps[static_cast<std::size_t>(group.last)])) ++group.last;
    const bool several = group.last - group.first > 1;
    group.blocked = several && !heads;
    group.headed = several && heads;
    groups.push_back(group);
    s = group.last;
  }
  return groups;
}

Plan compile(Trace trace, const CompileOptions& options) {
  Plan plan;
  drop_unread(trace);
  prune(trace);
  share(trace);
  accumulate(trace);
  if (options.blocks) adjoin(trace);
  if (options.whole) hasten_updates(trace);
  plan.groups = options.blocks ? fuse(trace, options.whole) : one_by_one(trace);
  plan.trace = std::move(trace);
  place(plan, options.inplace);
  return plan;
}

std::int64_t Plan::flops() const {
  std::int64_t sum = 0;
  for (const TraceStep& step : trace.steps) sum += flops_of(*this, step);
  return sum;
}

double Plan::work(const Group& group) const {
  double sum = static_cast<double>(bytes_of(*this, group));
  for (std::int32_t s = group.first; s < group.last; ++s)
    sum += static_cast<double>(flops_of(*this, trace.steps[static_cast<std::size_t>(s)]));
  return sum;
}

std::int64_t Plan::bytes_moved() const {
  std::int64_t sum = 0;
  for (const Group& group : groups) sum += bytes_of(*this, group);
  return sum;
}

std::string Plan::describe() const {
  std::string lines = text(
      trace.steps.size(), " steps in ", groups.size(), " groups on ", device_name(trace.device), ", ",
      thousands(flops()), " floating-point operations, ", thousands(bytes_moved()), " bytes moved, arena of ",
      thousands(arena_bytes), " bytes (", thousands(separate_bytes), " without sharing)\n");
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Group& group = groups[g];
    for (std::int32_t s = group.first; s < group.last; ++s) {
      const TraceStep& step = trace.steps[static_cast<std::size_t>(s)];
      std::string inputs;
      for (const std::int32_t value : step.in) inputs += (inputs.empty() ? "" : ", ") + named(*this, value);
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
                    (step.op->flags & op_mutates) ? std::string("in place") : named(*this, step.out[0]),
                    views[static_cast<std::size_t>(s)] ? " (the same memory)" : "",
                    own >= 0 ? text(", scratch @", own) : std::string(), step.place, "\n");
    }
  }
  return lines;
}

}  // namespace edfcore
