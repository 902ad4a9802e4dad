// Finding plans again, and making them for a list of nodes.
#include "graph/cache.h"

#include <algorithm>

#include "graph/trace.h"

namespace edfcore {

bool Plans::look(bool leaf, std::int32_t position, Look kind) {
  std::uint8_t& looks = (leaf ? leaves : nodes)[static_cast<std::size_t>(position)];
  if (looks & kind) return false;
  looks |= kind;
  ++looked;
  return true;
}

void Plans::look_at_all(Look kind) {
  for (std::uint8_t& looks : nodes) looks |= kind;
  ++looked;
}

std::shared_ptr<Plans> PlanCache::find(const Listing& listing) {
  const std::uint64_t hash = hash_of(listing.shapes, hash_of(listing.structure));
  const auto [first, last] = entries_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    if (it->second->structure != listing.structure || it->second->shapes != listing.shapes) continue;
    ++stats.hits;
    it->second->last_used = ++clock_;
    return it->second;
  }
  ++stats.misses;
  if (entries_.size() >= most)
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second->last_used < b.second->last_used;
    }));
  auto made = std::make_shared<Plans>();
  made->id = made->last_used = ++clock_;
  made->structure = listing.structure;
  made->shapes = listing.shapes;
  made->nodes.resize(listing.nodes.size());
  made->leaves.resize(listing.leaves.size());
  entries_.emplace(hash, made);
  return made;
}

std::shared_ptr<Plans> PlanCache::by_id(std::uint64_t id) const {
  for (const auto& [hash, plans] : entries_)
    if (plans->id == id) return plans;
  return nullptr;
}

void PlanCache::lost(Node& node, Look look) const {
  node.keep = true;  // whatever the shapes of the next step
  if (const std::shared_ptr<Plans> plans = by_id(node.plans)) {
    plans->look(!node.op, node.position, look);
    if (plans->lost) plans->look_at_all(look);  // whoever looks late a second time may look anywhere
    plans->lost = true;
  }
  const char* what = look == looked_at_value ? "value" : "gradient";
  fail(ErrorKind::graph, node.op ? text("[", node.op->name, "]") : "[Parameter]", " its ", what,
       " is gone: nobody had looked at it before, so the step did without it, and what it was computed from "
       "has changed since. From the next step on it is kept; edf.keep(node) or edf.keep(\"all\") keeps it "
       "from the start.",
       made_at(node));
}

std::unique_ptr<Compiled> compile(const Listing& listing, Plans& plans, const Target& target, Rule::Kind rule,
                                  Stops stops) {
  Program program;
  program.rule = rule;
  program.nodes = listing.nodes;
  if (target.loss >= 0) program.loss = listing.nodes[static_cast<std::size_t>(target.loss)];
  for (const std::int32_t p : target.parameters)
    program.parameters.push_back(listing.leaves[static_cast<std::size_t>(p)]);
  Traced traced = trace_program(program);
  Trace& trace = traced.trace;

  const auto spec_of = [&](std::int32_t value) -> const Spec& {
    return trace.values[static_cast<std::size_t>(value)].spec;
  };
  if (plans.specs.empty())
    for (const std::int32_t value : traced.values) plans.specs.push_back(spec_of(value));

  std::vector<Kept> values, grads;
  const auto keep_grad = [&](std::int32_t position, std::int32_t grad, bool leaf, std::int32_t parameter) {
    if (grad < 0) return grads.push_back({position, -1, {}, leaf});
    const Spec spec = spec_of(grad);
    grads.push_back({position, trace.keep_grad(grad, parameter), spec, leaf});
  };
  for (std::size_t i = 0; i < plans.nodes.size(); ++i) {
    const auto position = static_cast<std::int32_t>(i);
    if (!(plans.nodes[i] & looked_at_value) && position != target.loss) continue;  // the loss is small
    const std::int32_t slot = trace.keep(traced.values[i]);
    values.push_back({position, slot, plans.specs[i], false});
  }
  if (target.loss >= 0) {
    for (std::size_t i = 0; i < plans.nodes.size(); ++i)
      if (plans.nodes[i] & looked_at_grad)
        keep_grad(static_cast<std::int32_t>(i), traced.grads[i], false, -1);
    // Between Backward and the update anything may be done with them; and who looks at one may look at any.
    const bool any =
        stops == Stops::phases || std::any_of(plans.leaves.begin(), plans.leaves.end(),
                                              [](std::uint8_t looks) { return looks & looked_at_grad; });
    for (std::size_t i = 0; any && i < target.parameters.size(); ++i)
      keep_grad(target.parameters[i], traced.parameter_grads[i], true, traced.parameter_values[i]);
  }

  auto made = std::make_unique<Compiled>(compile(std::move(trace), {.stops = stops}));
  made->leaf_at.resize(made->runner.plan().trace.slots.size(), -1);
  for (std::size_t slot = 0; slot < traced.leaves.size(); ++slot)
    if (traced.leaves[slot]) made->leaf_at[slot] = traced.leaves[slot]->position;
  made->parts = std::move(traced.parts);
  made->values = std::move(values);
  made->grads = std::move(grads);
  made->looked = plans.looked;
  return made;
}

}  // namespace edfcore
