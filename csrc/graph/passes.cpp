// Pruning and rewriting the steps of a trace.
#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "graph/plan.h"

namespace edfcore {

bool is_elementwise(const Trace& trace, const TraceStep& step) {
  if (!(step.op->flags & op_elementwise)) return false;
  const Shape& shape = spec_of(trace, step.out[0]).shape;
  for (const Small<std::int32_t>* values : {&step.in, &step.out})
    for (const std::int32_t value : *values)
      if (!(spec_of(trace, value).shape == shape)) return false;
  return true;
}

void drop_unread(Trace& trace) {
  for (TraceStep& step : trace.steps) {
    for (std::size_t i = 0; i < step.in.size(); ++i) {
      if (step.op->reads(i)) continue;
      std::size_t j = 0;
      while (j < step.in.size() &&
             (!step.op->reads(j) || !(spec_of(trace, step.in[j]) == spec_of(trace, step.in[i]))))
        ++j;
      if (j < step.in.size()) {
        step.in[i] = step.in[j];
      } else {
        const Spec shape_alone = spec_of(trace, step.in[i]);
        step.in[i] = static_cast<std::int32_t>(trace.values.size());
        trace.values.push_back({shape_alone});
      }
    }
  }
}

void drop_copies(Trace& trace, bool whole) {
  std::vector<std::int32_t> same(trace.values.size());
  std::iota(same.begin(), same.end(), 0);
  const auto outside = [&](std::int32_t value) {
    return trace.values[static_cast<std::size_t>(value)].slot >= 0;
  };
  for (TraceStep& step : trace.steps) {
    for (std::int32_t& value : step.in) value = same[static_cast<std::size_t>(value)];
    if (!(step.op->flags & op_converts)) continue;
    const std::int32_t from = step.in[0], to = step.out[0];
    if (outside(to) || (outside(from) && !whole) || !(spec_of(trace, from) == spec_of(trace, to))) continue;
    same[static_cast<std::size_t>(to)] = from;
    step.op = nullptr;
  }
  std::erase_if(trace.steps, [](const TraceStep& step) { return !step.op; });
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
    if (runs[s] && kept++ != s) trace.steps[kept - 1] = std::move(trace.steps[s]);
  trace.steps.resize(kept);
}

void join(Trace& trace) {
  struct Pair {
    std::size_t first, back;  // steps
    std::int32_t comes_in;    // the value that the step back takes beside what the first one takes
  };
  std::vector<Pair> pairs;
  std::multimap<std::pair<const Op*, std::int32_t>, std::size_t> open;  // by grad's op and input 0
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    if (step.op->joins) open.emplace(std::pair(step.op->joins->grad, step.in[0]), s);
    if (open.empty() || step.in.size() < 2) continue;
    const auto [begin, end] = open.equal_range({step.op, step.in[1]});
    const auto found = std::find_if(begin, end, [&](const auto& each) {
      const Small<std::int32_t>& in = trace.steps[each.second].in;
      return std::equal(in.begin(), in.end(), step.in.begin() + 1, step.in.end());
    });
    if (found == end) continue;
    pairs.push_back({found->second, s, step.in[0]});
    open.erase(found);
  }
  if (pairs.empty()) return;

  // What hangs on what the first steps make.
  std::vector<bool> late(trace.values.size()), is_first(trace.steps.size());
  const auto is_late = [&](std::int32_t value) -> bool { return late[static_cast<std::size_t>(value)]; };
  for (const Pair& pair : pairs) is_first[pair.first] = true;
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    if (is_first[s] || std::any_of(step.in.begin(), step.in.end(), is_late))
      for (const std::int32_t value : step.out) late[static_cast<std::size_t>(value)] = true;
  }
  std::erase_if(pairs, [&](const Pair& pair) { return is_late(pair.comes_in); });

  // The one step comes right behind whatever makes what comes in, which has not moved; what hangs on it, and
  // stood before that, behind it. Updates, which are last, still are.
  std::vector<std::size_t> made(trace.values.size(), 0), keys(trace.steps.size(), 0);
  const auto made_at = [&](std::int32_t value) -> std::size_t& {
    return made[static_cast<std::size_t>(value)];
  };
  for (std::size_t s = 0; s < trace.steps.size(); ++s)
    for (const std::int32_t value : trace.steps[s].out) made_at(value) = 2 * s;
  for (const Pair& pair : pairs) {
    TraceStep &step = trace.steps[pair.first], &back = trace.steps[pair.back];
    keys[pair.first] = made_at(pair.comes_in) + 1;
    step.op = step.op->joins->into;
    step.in.push_back(pair.comes_in);
    Small<std::int32_t> out;
    for (const std::int32_t value : back.out) out.push_back(value);
    for (const std::int32_t value : step.out) out.push_back(value);
    step.out = std::move(out);
    back.op = nullptr;
  }
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    keys[s] = std::max(keys[s], 2 * s);
    if (!step.op) continue;
    for (const std::int32_t value : step.in) keys[s] = std::max(keys[s], made_at(value));
    for (const std::int32_t value : step.out) made_at(value) = keys[s];
  }
  reorder(trace, keys);
  std::erase_if(trace.steps, [](const TraceStep& step) { return !step.op; });
}

void accumulate(Trace& trace, bool whole) {
  const std::size_t n = trace.values.size();
  std::vector<std::int32_t> readers(n, 0), maker(n, -1);
  std::vector<bool> updated(n);
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    if (trace.steps[s].op->flags & op_mutates) updated[static_cast<std::size_t>(trace.steps[s].in[0])] = true;
    for (const std::int32_t value : trace.steps[s].in) ++readers[static_cast<std::size_t>(value)];
    for (const std::int32_t value : trace.steps[s].out)
      maker[static_cast<std::size_t>(value)] = static_cast<std::int32_t>(s);
  }
  // The step of this phase that makes a value for one reader alone.
  const auto own = [&](std::int32_t value, Phase phase) -> TraceStep* {
    const auto v = static_cast<std::size_t>(value);
    if (maker[v] < 0 || readers[v] != 1 || trace.values[v].slot >= 0) return nullptr;
    TraceStep& step = trace.steps[static_cast<std::size_t>(maker[v])];
    return step.op && step.phase == phase && step.out.size() == 1 ? &step : nullptr;
  };
  const auto most = [&](const TraceStep& step) -> std::int64_t {
    if (!step.op->accumulates || !step.op->accumulates->most) return 0;
    return step.op->accumulates->most(specs_of(trace, step.in), step.attrs, trace.device.type);
  };
  // It would come too late for what it reads, which another update may have changed by then.
  const auto reads_updated = [&](const TraceStep& step) {
    return std::any_of(step.in.begin(), step.in.end(),
                       [&](std::int32_t value) { return updated[static_cast<std::size_t>(value)]; });
  };
  // The descent along what a step makes, in one step with it.
  const auto descend = [&](TraceStep& update) {
    TraceStep* step = own(update.in[1], Phase::backward);
    if (!step || !step->op->accumulates || reads_updated(*step) ||
        !step->op->accumulates->descends(specs_of(trace, step->in), step->attrs, trace.device.type))
      return;
    Small<std::int32_t> in;
    in.push_back(update.in[0]);
    for (const std::int32_t value : step->in) in.push_back(value);
    const double rate = update.attrs.scalar;
    update.op = step->op->accumulates->descent;
    update.attrs = step->attrs;
    update.attrs.scalar = rate;
    update.in = std::move(in);
    step->op = nullptr;
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
    if (sum.op && (sum.op->flags & op_descends) && whole) descend(sum);
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

void share(Trace& trace, bool whole) {
  // A step in the place of its input, with what its op is asked for beside it.
  const auto shared = [&](const TraceStep& step) -> const Sharing* {
    const Sharing* sharing = step.op->shares;
    return sharing && sharing->worth(specs_of(trace, step.in), step.attrs, trace.device.type) ? sharing
                                                                                              : nullptr;
  };
  using Use = std::tuple<const Op*, std::int32_t, Phase>;
  std::map<Use, std::pair<int, std::int32_t>> uses;  // how often; the value
  // Between phases that can be run one by one, somebody may write the input.
  const auto use_of = [&](const TraceStep& step, const Sharing& s) {
    return Use(s.step, step.in[static_cast<std::size_t>(s.input)], whole ? Phase::forward : step.phase);
  };
  for (const TraceStep& step : trace.steps)
    if (const Sharing* s = shared(step))
      ++uses.emplace(use_of(step, *s), std::pair(0, -1)).first->second.first;
  if (std::none_of(uses.begin(), uses.end(), [](const auto& use) { return use.second.first > 1; })) return;
  std::vector<TraceStep> steps;
  steps.reserve(trace.steps.size());
  for (TraceStep& step : trace.steps) {
    if (const Sharing* s = shared(step)) {
      auto& [count, made] = uses.at(use_of(step, *s));
      std::int32_t& input = step.in[static_cast<std::size_t>(s->input)];
      if (count > 1) {
        if (made < 0) {
          TraceStep own;
          own.op = own.written = s->step;
          own.phase = step.phase;
          own.place = step.place;
          own.node = step.node;
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

}  // namespace edfcore
