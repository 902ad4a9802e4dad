// Doing what has been put off: by a plan, whose values live where the nodes say, or node by node, so that all
// values are there.
#include <algorithm>

#include "device/memory.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"

namespace edfcore {
// What is not kept has no value until it is looked at.
void Session::elide() {
  if (adopted_ == plans_->looked + 1) return;
  adopted_ = plans_->looked + 1;
  const auto do_without = [](Node& node, std::uint8_t looks) {
    if (!(looks & looked_at_grad)) node.output.grad = {};
    node.deferred.clear();
    node.shown.reset();
    node.elided = true;
  };
  for (std::size_t i = 0; i < listing_.nodes.size(); ++i) {
    Node& node = *listing_.nodes[i];
    if (!node.elided && !node.ran && !node.assigned && !node.has_grad) {  // just made: there is nothing yet
      node.elided = true;
      continue;
    }
    if (!(plans_->nodes[i] & looked_at_value) && (node.value() || node.value().mirror)) node.value().set({});
    do_without(node, plans_->nodes[i]);
  }
  for (std::size_t i = 0; i < listing_.leaves.size(); ++i)
    if (listing_.leaves[i]->role == Role::parameter) do_without(*listing_.leaves[i], plans_->leaves[i]);
}

void Session::finish() { advance(asked_); }

// Does this while leaves hold what they held then.
template <class Action>
void Session::with_what_was_read(Read& read, const Action& action) {
  const auto swap = [&] {
    for (auto& [leaf, tensor] : read) {
      leaf->value().on_device();
      std::swap(leaf->value().tensor, tensor);
    }
  };
  swap();
  try {
    action();
  } catch (...) {
    swap();
    throw;
  }
  swap();
}

// Does what was put off; a failure leaves no values, and the parameters as they were.
template <class Action>
void Session::guarded(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    forget();
    throw Error(error.kind(),
                text(error.what(), " (Found when the step was run, after the call that asked for it.)"));
  } catch (...) {
    forget();
    throw;
  }
}

void Session::advance(int to) {
  if (done_ >= to) return;
  if (to == 3 && done_ > 0 && rule_.kind != Rule::sgd && ran_ == plans_->trained.back().cut.get()) {
    advance(2);             // which ends with SGD
    if (straight_) return;  // which has done it all
    guarded([&] { update_straight(); });
    done_ = 3;
    changed_ = true;
    return;
  }
  Compiled* plan = nullptr;
  try {
    plan = &compiled(to);
  } catch (const Error&) {  // what a plan cannot do yet can be done node by node
    plans_->straight = true;
  }
  if (!plan) return settle();
  guarded([&] { run(*plan, to); });
  done_ = to;
  changed_ |= to == 3;
}

// The plan that goes on from where the step is.
Compiled& Session::compiled(int to) {
  if (done_ > 0) return *ran_;
  const Stops stops = to == 3 ? Stops::nowhere : asked_ == 3 ? Stops::forward : Stops::phases;
  std::unique_ptr<Compiled>* plan = &plans_->forward;
  const Target* target = nullptr;
  if (!plans_->trained.empty()) {
    Trained& trained = plans_->trained.back();
    plan = stops == Stops::phases ? &trained.cut
                                  : &(stops == Stops::nowhere ? trained.whole : trained.halves)[rule_.kind];
    target = &trained.target;
  }
  if (!*plan || (*plan)->looked != plans_->looked) {
    const Rule::Kind rule = stops == Stops::phases ? Rule::sgd : rule_.kind;
    *plan = compile(listing_, *plans_, target ? *target : Target{}, rule, stops);
    ++cache.stats.compiled;
  }
  return **plan;
}

void Session::run(Compiled& plan, int to) {
  ran_ = &plan;
  for (std::size_t slot = 0; slot < plan.leaf_at.size(); ++slot)
    if (plan.leaf_at[slot] >= 0)
      plan.runner.bind(
          static_cast<std::int32_t>(slot),
          listing_.leaves[static_cast<std::size_t>(plan.leaf_at[slot])]->value().on_device().data());
  bind_values(plan);
  if (to >= 2) {
    for (const NodeRef& node : listing_.nodes) node->has_grad = true;
    for (Node* parameter : parameters_of(plans_->trained.back().target)) parameter->has_grad = true;
    bind_grads(plan, done_ >= 2);
  }
  const Phase first = static_cast<Phase>(done_);
  if (to < 3) return plan.runner.run(listing_.nodes, {}, first, static_cast<Phase>(to - 1), poll);
  const std::vector<Node*> parameters = parameters_of(plans_->trained.back().target);
  Updating updating(parameters, rule_, plan.numbers);
  plan.runner.bind(plan.parts, updating);
  plan.runner.run(listing_.nodes, updating.next(), first, Phase::update, poll);
  updating.taken();
  for (Node* parameter : parameters) {
    ++parameter->value().tensor.buffer->version;
    parameter->value().updated();
  }
}

// Kept values live in memory of their nodes; once made, they are read from there.
void Session::bind_values(Compiled& plan) {
  for (const Kept& kept : plan.values) {
    Node& node = *listing_.nodes[static_cast<std::size_t>(kept.position)];
    if (done_ > 0) {
      if (plan.runner.bound(kept.slot) == node.value().tensor.data()) node.value().on_device();
      continue;  // otherwise it was detached
    }
    make_room(node.value(), kept.spec, node.device);
    node.output.spec = kept.spec;
    plan.runner.bind(kept.slot, node.value().on_device().data());
  }
}

void Session::bind_grads(Compiled& plan, bool made) {
  // What another plan kept of an earlier step is not this one's gradient.
  const bool keeps =
      std::any_of(plan.grads.begin(), plan.grads.end(), [](const Kept& kept) { return kept.leaf; });
  if (!made && !keeps)
    for (Node* parameter : parameters_of(plans_->trained.back().target)) parameter->output.grad = {};
  for (const Kept& kept : plan.grads) {
    const auto i = static_cast<std::size_t>(kept.position);
    Node& node = kept.leaf ? *listing_.leaves[i] : *listing_.nodes[i];
    NodeRef& grad = node.output.grad;
    node.has_grad = true;
    if (kept.slot < 0) {
      if (!made) grad = {};
      continue;
    }
    if (!made) {
      if (!grad || grad->refs.load() > 1 || grad->op || grad->role != Role::constant)
        grad = make_leaf(Role::constant, {});
      make_room(grad->value(), kept.spec, node.device);
      grad->output.spec = kept.spec;
      grad->device = node.device;
    }
    plan.runner.bind(kept.slot, grad->value().on_device().data());
  }
}

std::vector<Node*> Session::parameters_of(const Target& target) const {
  std::vector<Node*> parameters;
  for (const std::int32_t p : target.parameters)
    parameters.push_back(listing_.leaves[static_cast<std::size_t>(p)].get());
  return parameters;
}

void Session::settle() {
  mixed.settle();
  if (!plans_ || straight_) return;
  if (changed_ || written_) return finish();  // it cannot be done again
  guarded([&] { fill(); });
  straight_ = true;
  done_ = asked_;
  adopted_ = 0;
}

// Runs node by node whatever has been asked for, beside the values and gradients that are there already,
// which somebody may have written.
void Session::fill() {
  fill_values();
  if (asked_ < 2) return;

  const std::vector<NodeRef>& nodes = listing_.nodes;
  const Target& target = plans_->trained.back().target;
  const std::vector<Node*> parameters = parameters_of(target);
  std::vector<Node*> all = parameters;
  for (const NodeRef& node : nodes) all.push_back(node.get());
  std::vector<NodeRef> grads(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (done_ >= 2) grads[i] = std::exchange(all[i]->output.grad, {});
    zero_grad(*all[i]);
  }
  with_what_was_read(read_back_, [&] { walk_back(nodes, *nodes[static_cast<std::size_t>(target.loss)]); });
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!grads[i]) continue;
    zero_grad(*all[i]);
    all[i]->output.grad = std::move(grads[i]);
  }
  if (asked_ == 3 && done_ < 3) update_straight();
}

void Session::fill_values() {
  adopted_ = 0;
  const std::vector<NodeRef>& nodes = listing_.nodes;
  std::vector<Cell> values(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (done_ >= 1) std::swap(values[i], nodes[i]->value());
  with_what_was_read(read_, [&] {
    for (const NodeRef& node : nodes) edfcore::run(*node);
  });
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (values[i]) nodes[i]->value() = std::move(values[i]);
}

// The array of a value is about to be handed out, while the rest of the step still has to read it: whoever
// writes it then writes a copy.
void Session::detach(Node& node) {
  Tensor& own = node.value().tensor;
  const auto fits = [&](const Tensor& t) {
    return t.spec == own.spec && t.buffer->unique() && t.device() == own.device();
  };
  const auto found = std::find_if(spare_.begin(), spare_.end(), fits);
  Tensor copy;
  if (found == spare_.end()) {
    copy = allocate(own.spec, own.device());
  } else {
    copy = std::move(*found);
    spare_.erase(found);
  }
  copy_into(copy, node.value().on_device());
  detached_.push_back(own);
  node.value().set(std::move(copy));
}

void Session::update_straight() {
  const std::vector<Node*> parameters = parameters_of(plans_->trained.back().target);
  edfcore::update(parameters, rule_);
}

// Whoever is given a leaf's array may write it. Before the update, what it holds now is remembered, so that
// values and gradients that are missing can still be computed.
void Session::expect_write(Node& leaf) {
  if (asked_ > 2) {
    changed_ = true;
    return;
  }
  const auto has = [&](const Read& read) {
    return std::any_of(read.begin(), read.end(), [&](const auto& r) { return r.first.get() == &leaf; });
  };
  if (has(asked_ == 1 ? read_ : read_back_)) return;
  const Tensor now = copy_to(leaf.value().on_device(), leaf.value().tensor.device());
  if (asked_ == 2) read_back_.emplace_back(&leaf, now);
  if (!has(read_)) read_.emplace_back(&leaf, now);
}

void Session::finish_as_shown() { asked_ == 1 && done_ == 0 ? settle() : finish(); }

void Session::leave() {
  mixed.leave();
  finish_as_shown();
  drop();
}

void Session::step_aside(bool goes_on) {
  if (!plans_) return;
  if (goes_on) settle();
  finish_as_shown();
  drop();
}

void Session::abandon() {
  if (plans_ && !straight_) forget();
}

// Lets go of everything, done or not.
void Session::drop() {
  active_ = false;
  plans_ = {};
  ran_ = nullptr;
  read_.clear();
  read_back_.clear();
  detached_.clear();
  spare_.clear();
  let_go(listing_.nodes);
  listing_.leaves.clear();
  asked_ = done_ = 0;
  straight_ = true;
  adopted_ = 0;
}

// After a failure in the middle: there are no values.
void Session::forget() {
  for (const NodeRef& node : listing_.nodes) {
    node->output.value.set({});
    zero_grad(*node);
    node->has_grad = node->elided = false;
  }
  for (const NodeRef& leaf : listing_.leaves) {
    if (leaf->role != Role::parameter) continue;
    zero_grad(*leaf);
    leaf->has_grad = leaf->elided = false;
  }
  drop();
}

// True when somebody holds memory that the rest of the step reads, and may write it at any moment.
bool Session::handed_out() const {
  if (done_ == 0) return false;
  for (const NodeRef& leaf : listing_.leaves)
    if (leaf->value().held()) return true;
  for (const Kept& kept : ran_->values)
    if (listing_.nodes[static_cast<std::size_t>(kept.position)]->value().held()) return true;
  for (const Kept& kept : ran_->grads) {
    const auto i = static_cast<std::size_t>(kept.position);
    const Node& node = kept.leaf ? *listing_.leaves[i] : *listing_.nodes[i];
    if (node.output.grad && node.output.grad->value().held()) return true;
  }
  return false;
}

// True when a parameter that no gradient reaches was given one by hand.
bool Session::grown() const {
  if (straight_ || done_ < 2) return false;
  return std::any_of(ran_->grads.begin(), ran_->grads.end(), [&](const Kept& kept) {
    return kept.leaf && kept.slot < 0 &&
           listing_.leaves[static_cast<std::size_t>(kept.position)]->output.grad;
  });
}

}  // namespace edfcore
