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

std::unique_ptr<Compiled> compile(const Listing& listing, Plans& plans, const Target& target, Rule::Kind rule,
                                  bool whole) {
  Program program;
  program.rule = rule;
  program.nodes = listing.nodes;
  if (target.loss >= 0) program.loss = listing.nodes[static_cast<std::size_t>(target.loss)];
  for (const std::int32_t p : target.parameters)
    program.parameters.push_back(listing.leaves[static_cast<std::size_t>(p)]);
  Traced traced = trace_program(program);
  Trace& trace = traced.trace;

  const auto spec_of = [&](const NodeRef& node) -> const Spec& {
    return trace.values[static_cast<std::size_t>(traced.value_of.at(node.get()))].spec;
  };
  if (plans.specs.empty())
    for (const NodeRef& node : listing.nodes) plans.specs.push_back(spec_of(node));

  std::vector<Kept> values, grads;
  const auto keep_grad = [&](const Node& node, std::size_t i, bool leaf) {
    const auto position = static_cast<std::int32_t>(i);
    const auto found = traced.grad_of.find(&node);
    if (found == traced.grad_of.end()) return grads.push_back({position, -1, {}, leaf});
    const Spec spec = trace.values[static_cast<std::size_t>(found->second)].spec;
    const std::int32_t parameter = leaf ? traced.value_of.at(&node) : -1;
    grads.push_back({position, trace.keep_grad(found->second, parameter), spec, leaf});
  };
  for (std::size_t i = 0; i < plans.nodes.size(); ++i) {
    if (!(plans.nodes[i] & looked_at_value)) continue;
    const std::int32_t slot = trace.keep(traced.value_of.at(listing.nodes[i].get()));
    values.push_back({static_cast<std::int32_t>(i), slot, plans.specs[i], false});
  }
  if (target.loss >= 0) {
    for (std::size_t i = 0; i < plans.nodes.size(); ++i)
      if (plans.nodes[i] & looked_at_grad) keep_grad(*listing.nodes[i], i, false);
    // Between Backward and the update anything may be done with them; and who looks at one may look at any.
    const bool any = !whole || std::any_of(plans.leaves.begin(), plans.leaves.end(),
                                           [](std::uint8_t looks) { return looks & looked_at_grad; });
    for (const std::int32_t p : target.parameters)
      if (any) keep_grad(*listing.leaves[static_cast<std::size_t>(p)], static_cast<std::size_t>(p), true);
  }

  auto made = std::make_unique<Compiled>(compile(std::move(trace), {.whole = whole}));
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
