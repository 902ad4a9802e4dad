// Dividing a list into segments, and making and running the plans of one.
#include "graph/segment.h"

#include <algorithm>
#include <cstring>

#include "device/memory.h"
#include "graph/cache.h"
#include "graph/grad.h"
#include "graph/run.h"

namespace edfcore {
namespace {

constexpr std::size_t most_variants = 8, most_patterns = 4;

Member member_of(const Node& node) { return {node.position, !node.op}; }

// The node's inputs, and those of the node that it may fuse with; numbers are none.
template <class See>
void each_input(const Node& node, const See& see) {
  for (const Edge& edge : node.inputs)
    if (edge.node->role != Role::number) see(*edge.node);
  if (!node.op->fuses) return;
  const Node& producer = *node.inputs[static_cast<std::size_t>(node.op->fuses->input)].node;
  if (producer.op == node.op->fuses->producer)
    for (const Edge& edge : producer.inputs)
      if (edge.node->role != Role::number) see(*edge.node);
}

// Whoever has looked at a value may write it. What was computed from it is kept, so that nothing is ever
// computed from it again.
bool is_kept(const Plans& plans, const Node& node) {
  const auto i = static_cast<std::size_t>(node.position);
  bool kept = plans.needed[i] || (plans.nodes[i] & looked_at_value);
  each_input(node, [&](const Node& input) {
    const auto looks = (input.op ? plans.nodes : plans.leaves)[static_cast<std::size_t>(input.position)];
    kept |= input.role == Role::host || (looks & looked_at_value);
  });
  return kept;
}

Program program_of(const Listing& listing, const Segment& segment) {
  Program program;
  const std::span<const NodeRef> nodes = nodes_of(listing, segment);
  program.nodes.assign(nodes.begin(), nodes.end());
  for (const Member& member : segment.outside) program.parameters.emplace_back(&node_at(listing, member));
  program.segment = true;
  return program;
}

// The leaves of the trace that the plan reads.
std::vector<Tie> values_read(const Plan& plan, const std::vector<NodeRef>& leaves) {
  std::vector<bool> read(plan.trace.slots.size());
  for (const TraceStep& step : plan.trace.steps)
    for (const std::int32_t value : step.in) {
      const std::int32_t slot = plan.trace.values[static_cast<std::size_t>(value)].slot;
      if (slot >= 0) read[static_cast<std::size_t>(slot)] = true;
    }
  std::vector<Tie> ties;
  for (std::size_t slot = 0; slot < leaves.size(); ++slot)
    if (leaves[slot] && read[slot])
      ties.push_back({static_cast<std::int32_t>(slot), member_of(*leaves[slot]), leaves[slot]->output.spec});
  return ties;
}

void bind_values(const Listing& listing, SegmentPlan& plan) {
  for (const Tie& tie : plan.values)
    plan.runner.bind(tie.slot, node_at(listing, tie.member).value().on_device().data());
}

}  // namespace

Node& node_at(const Listing& listing, Member member) {
  return *(member.leaf ? listing.leaves : listing.nodes)[static_cast<std::size_t>(member.position)];
}

std::span<const NodeRef> nodes_of(const Listing& listing, const Segment& segment) {
  return std::span(listing.nodes)
      .subspan(static_cast<std::size_t>(segment.first),
               static_cast<std::size_t>(segment.last - segment.first));
}

void divide(const Listing& listing, std::span<const std::int32_t> begins, Plans& plans) {
  plans.needed.assign(listing.nodes.size(), 0);
  plans.segments.resize(begins.size());
  for (std::size_t s = 0; s < begins.size(); ++s) {
    Segment& segment = plans.segments[s];
    segment.first = begins[s];
    segment.last = s + 1 < begins.size() ? begins[s + 1] : static_cast<std::int32_t>(listing.nodes.size());
    for (const NodeRef& node : nodes_of(listing, segment)) {
      each_input(*node, [&](const Node& input) {
        const Member member = member_of(input);
        if (!member.leaf && member.position >= segment.first) return;
        if (!member.leaf) plans.needed[static_cast<std::size_t>(member.position)] = 1;
        if (std::find(segment.outside.begin(), segment.outside.end(), member) == segment.outside.end())
          segment.outside.push_back(member);
      });
      if (!node->op->fuses) continue;
      const Node& producer = *node->inputs[static_cast<std::size_t>(node->op->fuses->input)].node;
      if (producer.op == node->op->fuses->producer && producer.position < segment.first)
        plans.straight = true;  // fusion across a barrier
    }
  }
}

SegmentPlans& variant_of(const Listing& listing, Segment& segment) {
  std::vector<std::uint64_t> specs;
  for (const Member& member : segment.outside) {
    const Node& node = node_at(listing, member);
    write_spec(node.role, node.output.spec, specs);
  }
  auto& variants = segment.variants;
  const auto found =
      std::find_if(variants.begin(), variants.end(), [&](const auto& v) { return v->specs == specs; });
  if (found != variants.end()) {
    std::rotate(found, found + 1, variants.end());
    return *variants.back();
  }
  if (variants.size() == most_variants) variants.erase(variants.begin());
  variants.push_back(std::make_unique<SegmentPlans>());
  variants.back()->specs = std::move(specs);
  return *variants.back();
}

SegmentPlan& forward_plan(const Listing& listing, Plans& plans, const Segment& segment, SegmentPlans& known,
                          std::int64_t& compiled) {
  const std::uint64_t stamp = plans.looked + plans.needs;
  if (known.forward && known.forward->stamp == stamp) return *known.forward;
  Traced traced = trace_program(program_of(listing, segment));
  std::vector<Tie> made;
  known.nodes.clear();
  for (std::size_t i = 0; i < traced.values.size(); ++i) {  // a step for each node
    const std::int32_t value = traced.values[i], position = segment.first + static_cast<std::int32_t>(i);
    const TraceStep& step = traced.trace.steps[i];
    known.nodes.push_back({spec_of(traced.trace, value), step.op, step.attrs});
    if (is_kept(plans, *listing.nodes[static_cast<std::size_t>(position)]))
      made.push_back({traced.trace.keep(value), {position, false}, known.nodes.back().spec});
  }
  auto plan = std::make_unique<SegmentPlan>(compile(std::move(traced.trace)));
  plan->values = values_read(plan->runner.plan(), traced.leaves);
  plan->made = std::move(made);
  plan->stamp = stamp;
  ++compiled;
  known.forward = std::move(plan);
  return *known.forward;
}

SegmentPlan& backward_plan(const Listing& listing, Plans& plans, const Segment& segment, SegmentPlans& known,
                           std::vector<std::uint8_t> arrived, std::int64_t& compiled) {
  auto& all = known.backward;
  std::erase_if(all, [&](const auto& plan) { return plan->stamp != plans.looked; });
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& plan) { return plan->arrived == arrived; });
  if (found != all.end()) {
    std::rotate(found, found + 1, all.end());
    return *all.back();
  }
  Traced traced = trace_backward(program_of(listing, segment), arrived);
  Trace& trace = traced.trace;
  const std::size_t n = static_cast<std::size_t>(segment.last - segment.first);
  std::vector<Tie> made, grads;
  std::vector<Member> stay, zero;
  for (std::size_t i = 0; i < arrived.size(); ++i) {
    const bool own = i < n;
    const Member member =
        own ? Member{segment.first + static_cast<std::int32_t>(i), false} : segment.outside[i - n];
    if (arrived[i]) grads.push_back({traced.arrived[i], member, node_at(listing, member).output.spec});
    if (own && !(plans.nodes[static_cast<std::size_t>(member.position)] & looked_at_grad)) continue;
    const std::int32_t grad = own ? traced.grads[i] : traced.parameter_grads[i - n];
    if (grad < 0) {
      if (own) zero.push_back(member);
      continue;
    }
    const TraceValue value = trace.values[static_cast<std::size_t>(grad)];
    if (arrived[i] && value.slot == traced.arrived[i]) {
      if (own) stay.push_back(member);
      continue;
    }
    made.push_back({trace.keep_grad(grad, -1), member, value.spec});
  }
  auto plan = std::make_unique<SegmentPlan>(compile(std::move(trace)));
  plan->values = values_read(plan->runner.plan(), traced.leaves);
  plan->grads = std::move(grads);
  plan->made = std::move(made);
  plan->stay = std::move(stay);
  plan->zero = std::move(zero);
  plan->arrived = std::move(arrived);
  plan->stamp = plans.looked;
  for (const Tie& tie : plan->values) {
    if (tie.member.leaf) continue;
    std::uint8_t& needed = plans.needed[static_cast<std::size_t>(tie.member.position)];
    plans.needs += !needed;
    needed = 1;
  }
  ++compiled;
  if (all.size() == most_patterns) all.erase(all.begin());
  all.push_back(std::move(plan));
  return *all.back();
}

bool list_arrived(const Listing& listing, const Segment& segment, std::vector<std::uint8_t>& arrived) {
  arrived.clear();
  bool known = true;
  const auto see = [&](Node& node) {
    const NodeRef& grad = node.output.grad;
    known &= !node.assigned && node.deferred.empty() && (!grad || grad->output.spec == node.output.spec);
    arrived.push_back(grad ? 1 : 0);
  };
  for (const NodeRef& node : nodes_of(listing, segment)) see(*node);
  for (const Member& member : segment.outside) see(node_at(listing, member));
  return known;
}

void run_forward(const Listing& listing, const Segment& segment, const SegmentPlans& known, SegmentPlan& plan,
                 Poll poll) {
  const std::span<const NodeRef> nodes = nodes_of(listing, segment);
  bind_values(listing, plan);
  for (const Tie& tie : plan.made) {
    Node& node = node_at(listing, tie.member);
    make_room(node.value(), tie.spec, node.device);
    plan.runner.bind(tie.slot, node.value().on_device().data());
  }
  try {
    plan.runner.run(nodes, {}, Phase::forward, Phase::update, poll);
  } catch (...) {
    for (const NodeRef& node : nodes) node->value().set({});
    throw;
  }
  auto kept = plan.made.begin();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    Node& node = *nodes[i];
    node.output.spec = known.nodes[i].spec;
    node.ran = known.nodes[i].ran;
    node.resolve(known.nodes[i].resolved);
    node.assigned = false;
    if (kept != plan.made.end() && kept->member.position == node.position) {
      ++kept;
      continue;
    }
    node.value().set({});
    node.elided = true;
  }
}

bool as_computed(const Listing& listing, const Segment& segment, std::span<const NodeRef> suspects) {
  const std::span<const NodeRef> nodes = nodes_of(listing, segment);
  std::vector<Cell> values(nodes.size());
  const auto swap = [&] {
    for (std::size_t i = 0; i < nodes.size(); ++i) std::swap(values[i], nodes[i]->value());
  };
  std::vector<Tensor> made;
  swap();
  try {
    for (const NodeRef& node : nodes) run(*node);
    for (const NodeRef& node : suspects) made.push_back(copy_to(node->value().tensor, cpu_device));
  } catch (...) {
    swap();
    throw;
  }
  swap();
  for (std::size_t i = 0; i < suspects.size(); ++i) {
    const Tensor is = copy_to(suspects[i]->value().on_device(), cpu_device);
    if (!(is.spec == made[i].spec) || std::memcmp(is.data(), made[i].data(), is.spec.bytes()) != 0)
      return false;
  }
  return true;
}

std::vector<NodeRef> grads_read(const Listing& listing, const SegmentPlan& plan) {
  std::vector<NodeRef> grads;
  for (const Tie& tie : plan.grads) grads.push_back(node_at(listing, tie.member).output.grad);
  return grads;
}

// Runs a plan with the gradients that it reads; returns those that it makes.
static std::vector<NodeRef> grads_made(const Listing& listing, const Segment& segment, SegmentPlan& plan,
                                       std::span<const NodeRef> grads, Poll poll) {
  bind_values(listing, plan);
  for (std::size_t i = 0; i < grads.size(); ++i)
    plan.runner.bind(plan.grads[i].slot, grads[i]->value().on_device().data());
  std::vector<NodeRef> made;
  for (const Tie& tie : plan.made) {
    const Device device = node_at(listing, tie.member).device;
    made.push_back(make_leaf(Role::constant, allocate(tie.spec, device)));
    plan.runner.bind(tie.slot, made.back()->value().tensor.data());
  }
  plan.runner.run(nodes_of(listing, segment), {}, Phase::forward, Phase::update, poll);
  return made;
}

void run_backward(const Listing& listing, const Segment& segment, SegmentPlan& plan, Poll poll) {
  std::vector<NodeRef> made = grads_made(listing, segment, plan, grads_read(listing, plan), poll);
  std::vector<NodeRef> staying;
  for (const Member& member : plan.stay) staying.push_back(node_at(listing, member).output.grad);
  for (const NodeRef& node : nodes_of(listing, segment)) {
    node->output.grad = {};
    node->grad_elided = true;
  }
  for (std::size_t i = 0; i < made.size(); ++i)
    node_at(listing, plan.made[i].member).output.grad = std::move(made[i]);
  for (std::size_t i = 0; i < staying.size(); ++i)
    node_at(listing, plan.stay[i]).output.grad = std::move(staying[i]);
  for (const Member& member : plan.zero) node_at(listing, member).grad_elided = false;
}

void run_backward_again(const Listing& listing, const Segment& segment, SegmentPlan& plan,
                        std::span<const NodeRef> grads) {
  std::vector<NodeRef> made = grads_made(listing, segment, plan, grads, nullptr);
  const auto give = [&](const Member& member, const NodeRef& grad) {
    const bool own = !member.leaf && member.position >= segment.first && member.position < segment.last;
    Node& node = node_at(listing, member);
    if (own && !node.output.grad) node.output.grad = grad;
  };
  for (std::size_t i = 0; i < made.size(); ++i) give(plan.made[i].member, made[i]);
  for (const Member& member : plan.stay) {
    const auto tie = std::ranges::find(plan.grads, member, &Tie::member);
    give(member, grads[static_cast<std::size_t>(tie - plan.grads.begin())]);
  }
  for (const Member& member : plan.zero) node_at(listing, member).grad_elided = false;
}

}  // namespace edfcore
