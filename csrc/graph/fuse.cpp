// Grouping the steps of a trace.
#include <algorithm>
#include <map>
#include <vector>

#include "graph/plan.h"
#include "ops/elementwise.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

// Whether a product on a GPU may end with a step that reads it first.
bool may_end(const Trace& trace, const TraceStep& step) {
  if (!(step.op->flags & op_ending)) return false;
  if (step.op->most_columns == 0) return is_elementwise(trace, step);
  const std::int64_t columns = spec_of(trace, step.in[0]).shape[-1];
  return 0 < columns && columns <= step.op->most_columns;
}

bool sums_columns(const TraceStep& step) {
  return step.op->formula == Formula::column_sum || step.op->formula == Formula::column_descent;
}

// Whether a step sums up the columns of a product's right operand, in a way in which that one's kernel can do
// it.
bool may_sum_columns(const Trace& trace, const TraceStep& product, const TraceStep& step) {
  const std::int32_t right = product.op->sums_columns;
  if (right < 0 || product.attrs.trans_b || !sums_columns(step)) return false;
  const std::int32_t operand = product.in[static_cast<std::size_t>(right)];
  const auto touched = [&](std::int32_t value) {
    return std::count(product.in.begin(), product.in.end(), value) +
               std::count(product.out.begin(), product.out.end(), value) >
           0;
  };
  if (touched(step.out[0]) || ((step.op->flags & op_mutates) && touched(step.in[0]))) return false;
  const Spec &x = spec_of(trace, operand), &sums = spec_of(trace, step.out[0]);
  return step.in[step.in.size() - 1] == operand && !is_half(x.dtype) && x.shape.rank() == 2 &&
         spec_of(trace, product.out[0]).shape.rank() == 2 && sums.shape.size() == x.shape[1] &&
         x.shape[1] > 1 && sums.shape[-1] == x.shape[1] &&
         scratch_of(*step.op, specs_of(trace, step.in), specs_of(trace, step.out), step.attrs,
                    trace.device.type) == 0;
}

// Behind which product each step goes that can be done with it, though others stand between them.
std::map<std::size_t, std::size_t> column_sums(const Trace& trace) {
  std::map<std::int32_t, std::size_t> sums;  // by what they sum up
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    if (sums_columns(step)) sums.emplace(step.in[step.in.size() - 1], s);
  }
  std::map<std::size_t, std::size_t> behind;
  for (std::size_t p = 0; p < trace.steps.size(); ++p) {
    const TraceStep& product = trace.steps[p];
    if (product.op->sums_columns < 0) continue;
    const auto found = sums.find(product.in[static_cast<std::size_t>(product.op->sums_columns)]);
    if (found == sums.end()) continue;
    const std::size_t s = found->second;
    const TraceStep& step = trace.steps[s];
    const bool descends = (step.op->flags & op_mutates) != 0;
    const auto touches = [&](const TraceStep& other) {
      if (descends && (other.op->flags & op_checks)) return true;  // bad data leave all parameters alone
      for (const Small<std::int32_t>* values : {&other.in, &other.out})
        for (const std::int32_t value : *values)
          if (value == step.out[0] || (descends && value == step.in[0])) return true;
      return false;
    };
    if (step.phase != product.phase || !may_sum_columns(trace, product, step) ||
        std::any_of(trace.steps.begin() + static_cast<std::ptrdiff_t>(std::min(p, s)) + 1,
                    trace.steps.begin() + static_cast<std::ptrdiff_t>(std::max(p, s)), touches))
      continue;
    behind.emplace(s, p);
    sums.erase(found);
  }
  return behind;
}

// Whether an array of one shape is one of the other again and again.
bool repeats(const Shape& whole, const Shape& part) {
  int first = 0;
  while (first < part.rank() && part[first] == 1) ++first;
  for (int axis = 1; axis <= part.rank() - first; ++axis)
    if (axis > whole.rank() || part[-axis] != whole[-axis]) return false;
  return true;
}

// Whether a step can be part of a chain on a GPU.
bool may_chain(const Trace& trace, const TraceStep& step) {
  if (!step.op->cuda_chain) return false;
  const Spec& made = spec_of(trace, step.out[0]);
  if (!is_floating(made.dtype)) return false;
  for (std::size_t i = 0; i < step.in.size(); ++i) {
    const Spec& read = spec_of(trace, step.in[i]);
    if (step.op->reads(i) && (read.dtype != made.dtype || !repeats(made.shape, read.shape))) return false;
  }
  return true;
}

// Behind the last of the steps from `first` on that are one chain.
std::int32_t end_of_chain(const Trace& trace, std::int32_t first, bool whole) {
  const auto step = [&](std::int32_t s) -> const TraceStep& {
    return trace.steps[static_cast<std::size_t>(s)];
  };
  const Spec& made = spec_of(trace, step(first).out[0]);
  Small<std::int32_t> values;
  std::int32_t s = first;
  for (; s < static_cast<std::int32_t>(trace.steps.size()) && may_chain(trace, step(s)); ++s) {
    const Spec& own = spec_of(trace, step(s).out[0]);
    if (own.dtype != made.dtype || own.shape.size() != made.shape.size()) break;
    if (!whole && step(s).phase != step(first).phase) break;
    for (const Small<std::int32_t>* some : {&step(s).in, &step(s).out})
      for (const std::int32_t value : *some)
        if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
    if (values.size() > most_chain_values) break;
  }
  return s;
}

// Whether a step reads an output of which the head of a group does not tell which parts are complete.
bool reads_at_the_end(const TraceStep& step, const TraceStep& head) {
  return std::any_of(head.out.begin() + 1, head.out.end(), [&](std::int32_t value) {
    return std::count(step.in.begin(), step.in.end(), value) > 0;
  });
}

}  // namespace

void adjoin(Trace& trace) {
  const bool on_cpu = trace.device.type == DeviceType::cpu;
  constexpr std::size_t nowhere = SIZE_MAX;
  const std::size_t n = trace.steps.size();
  std::vector<std::size_t> defined(trace.values.size(), 0), headed_by(trace.values.size(), nowhere);
  std::vector<std::size_t> after(n);  // behind which step each one stands
  std::size_t checked = 0;            // behind which the last one that checks data does: they stay in order
  for (std::size_t s = 0; s < n; ++s) {
    const TraceStep& step = trace.steps[s];
    const bool checks = (step.op->flags & op_checks) != 0;
    after[s] = s;
    if (step.op->flags & (on_cpu ? op_finishes : op_ends)) {
      headed_by[static_cast<std::size_t>(step.out[0])] = s;
    } else if (on_cpu ? is_elementwise(trace, step) && !(step.op->flags & op_mutates)
                      : may_end(trace, step)) {
      std::size_t latest = 0;
      for (const std::int32_t value : step.in)
        latest = std::max(latest, defined[static_cast<std::size_t>(value)]);
      const auto read = on_cpu ? step.in.end() : step.in.begin() + 1;
      const bool reads_it = std::any_of(step.in.begin(), read, [&](std::int32_t value) {
        return headed_by[static_cast<std::size_t>(value)] == latest;
      });
      if (reads_it && trace.steps[latest].phase == step.phase && !(checks && latest < checked) &&
          !reads_at_the_end(step, trace.steps[latest])) {
        after[s] = latest;
        if (on_cpu)
          for (const std::int32_t value : step.out) headed_by[static_cast<std::size_t>(value)] = latest;
        else
          headed_by[static_cast<std::size_t>(step.in[0])] = nowhere;  // it ends with one step
      }
    }
    if (checks) checked = after[s];
    for (const std::int32_t value : step.out) defined[static_cast<std::size_t>(value)] = after[s];
  }
  if (on_cpu) return reorder(trace, after);
  for (std::size_t& key : after) key *= 2;
  for (const auto& [step, product] : column_sums(trace)) after[step] = after[product] + 1;
  reorder(trace, after);
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
               std::count(first.in.begin(), first.in.end(), next.in[0]) > 0) &&
             !(heads && reads_at_the_end(next, first));
    };
    if (on_cpu && (heads || is_elementwise(trace, first)))
      while (group.last < count && fits(trace.steps[static_cast<std::size_t>(group.last)])) ++group.last;
    const auto ends = [&](const TraceStep& next) {
      const auto reads_it = [&](std::size_t i) { return next.op->reads(i) && next.in[i] == first.out[0]; };
      return (first.op->flags & op_ends) && may_end(trace, next) && (whole || next.phase == first.phase) &&
             !is_half(spec_of(trace, first.out[0]).dtype) && reads_it(0) &&
             !(next.in.size() > 1 && reads_it(1)) && !(next.in.size() > 2 && reads_it(2));
    };
    const auto does = [&](const TraceStep& next) {
      return ends(next) || ((whole || next.phase == first.phase) && may_sum_columns(trace, first, next));
    };
    if (!on_cpu && group.last < count && does(trace.steps[static_cast<std::size_t>(group.last)])) {
      ++group.last;
      group.ended = true;
    } else if (!on_cpu && may_chain(trace, first)) {
      group.last = end_of_chain(trace, s, whole);
    }
    const auto joins = [&](const TraceStep& next) {
      return next.gathered && next.op == first.op && (whole || next.phase == first.phase) &&
             spec_of(trace, next.out[0]).dtype == spec_of(trace, first.out[0]).dtype;
    };
    if (first.gathered)
      while (group.last < count && joins(trace.steps[static_cast<std::size_t>(group.last)])) ++group.last;
    const bool several = group.last - group.first > 1;
    group.joint = several && first.gathered;
    group.headed = several && heads && !group.ended;
    group.blocked = several && !heads && !group.joint && !group.ended;
    groups.push_back(group);
    s = group.last;
  }
  return groups;
}

}  // namespace edfcore
