// Putting off what the three calls ask for, and doing it when it is needed.
#include "graph/session.h"

#include <algorithm>

#include "graph/grad.h"
#include "graph/run.h"
#include "graph/watch.h"

namespace edfcore {
namespace {

constexpr std::size_t most_targets = 4;  // losses and sets of parameters that one list is trained for

template <class Nodes>
void forward_straight(const Nodes& nodes) {
  for (const auto& node : nodes) run(*node);
}

void backward_straight(std::span<const NodeRef> nodes, std::span<Node* const> parameters, Node& loss) {
  for (const NodeRef& node : nodes) {
    if (!node->value())
      fail(ErrorKind::graph, "Backward: [", node->op->name, "] has no value yet: run Forward() first.",
           made_at(*node));
    zero_grad(*node);
  }
  for (Node* parameter : parameters) zero_grad(*parameter);
  walk_back(nodes, loss);
}

}  // namespace

Session& session() {
  static auto* const instance = new Session;  // outlives the interpreter's teardown
  return *instance;
}

// ---- The three calls.

void Session::forward(std::span<Node* const> nodes) {
  mixed.leave();
  const bool again = plans_ && listing_.same_nodes(nodes);
  again ? finish() : finish_as_shown();
  asked_ = done_ = 0;
  if (!again) drop();
  // Within a walk over another list nothing is put off: what comes behind may share nodes with this one.
  const bool planned = !keep_all && !watch().on && !nodes.empty() && !mixed.walking();
  if (!planned || !(again || list_nodes(nodes, listing_)) || !list_shapes(listing_)) {
    drop();
    return forward_straight(nodes);
  }
  if (again && plans_->shapes == listing_.shapes) {
    ++cache.stats.hits;
  } else {
    plans_ = cache.find(listing_);
    active_ = true;
    for (const NodeRef& node : listing_.nodes) {
      node->plans = plans_->id;
      if (node->keep) keep(*node);
    }
    for (const NodeRef& leaf : listing_.leaves) {
      leaf->plans = plans_->id;
      if (leaf->keep) keep(*leaf);
    }
    adopted_ = 0;
  }
  ran_ = nullptr;
  changed_ = written_ = false;
  read_.clear();
  read_back_.clear();
  spare_ = std::exchange(detached_, {});
  straight_ = plans_->straight || plans_->runs < straight_runs;
  if (!straight_) {
    try {
      if (plans_->specs.empty()) compiled(1);  // what is wrong with shapes is to be known now
    } catch (...) {
      drop();
      throw;
    }
    elide();
    for (const NodeRef& leaf : listing_.leaves)
      straight_ |= leaf->value().held();  // may be written any moment
  }
  if (straight_) {
    adopted_ = 0;
    forward_straight(listing_.nodes);
    ++plans_->runs;
    done_ = 1;
    if (plans_->specs.empty())
      for (const NodeRef& node : listing_.nodes) plans_->specs.push_back(node->output.spec);
  }
  asked_ = 1;
}

void Session::backward(std::span<Node* const> nodes, std::span<Node* const> parameters, Node& loss) {
  Target target;
  if (!plans_ || asked_ != 1 || !listing_.same_nodes(nodes) || !target_of(parameters, loss, target)) {
    if (plans_ && asked_ > 0) plans_->straight = true;
    settle();
    mixed.leave();
    drop();
    std::vector<NodeRef> held;
    for (Node* node : nodes) held.emplace_back(node);
    return backward_straight(held, parameters, loss);
  }
  share_of_batch(plans_->specs[static_cast<std::size_t>(target.loss)].shape);  // throws where it is empty
  if (!aim(std::move(target))) {
    settle();
    if (!straight_) cache.lost(loss, looked_at_value);
  }
  for (Node* parameter : parameters)
    if (!listing_.has_leaf(*parameter)) zero_grad(*parameter);
  asked_ = 2;
  if (straight_) {
    backward_straight(listing_.nodes, parameters_of(plans_->trained.back().target), loss);
    done_ = 2;
  } else if (handed_out()) {
    finish();
    written_ = true;  // whoever holds it may write it
  }
}

void Session::update_now(std::span<Node* const> parameters, const Rule& rule) {
  for (Node* parameter : parameters)
    if (parameter->elided && !parameter->output.grad) look_at_grad(*parameter);
  edfcore::update(parameters, rule);
}

void Session::update(std::span<Node* const> parameters, const Rule& rule) {
  if (!mixed.idle()) {
    mixed.change();
    return update_now(parameters, rule);
  }
  const bool same = plans_ && asked_ == 2 && same_target(parameters);
  if (same && grown()) {  // all gradients are there
    edfcore::update(parameters, rule);
    asked_ = done_ = 3;
    changed_ = true;
    return;
  }
  if (!same || straight_) {
    settle();
    update_now(parameters, rule);
    same ? static_cast<void>(asked_ = done_ = 3) : drop();
    return;
  }
  const std::vector<Node*> others = unlisted(parameters);
  check_grads(others, op_of(rule.kind));
  rule_ = rule;
  asked_ = 3;
  if (!others.empty() || handed_out()) finish();
  if (!others.empty()) edfcore::update(others, rule);
}

// Parameters that the listing does not read: a plan does not update them.
std::vector<Node*> Session::unlisted(std::span<Node* const> parameters) const {
  std::vector<Node*> others;
  for (Node* parameter : parameters)
    if (!listing_.has_leaf(*parameter)) others.push_back(parameter);
  return others;
}

// The loss among the nodes, and the parameters among the leaves. False when a plan would leave out the
// gradient of one that collects gradients over several steps.
bool Session::target_of(std::span<Node* const> parameters, const Node& loss, Target& target) const {
  target.loss = loss.position;
  if (!listing_.has(loss)) return false;
  for (const Node* parameter : parameters)
    if (listing_.has_leaf(*parameter)) target.parameters.push_back(parameter->position);
  std::size_t read = 0;
  for (const NodeRef& leaf : listing_.leaves) read += leaf->role == Role::parameter;
  std::vector<std::int32_t> sorted = target.parameters;
  std::sort(sorted.begin(), sorted.end());
  return sorted.size() == read && std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}

// True when these are the parameters that Backward was called for.
bool Session::same_target(std::span<Node* const> parameters) const {
  const Target& known = plans_->trained.back().target;
  Target target;
  return target_of(parameters, *listing_.nodes[static_cast<std::size_t>(known.loss)], target) &&
         target == known;
}

// Makes this what the list is trained for. False when what has been run of the step was run for another
// target, or there are too many of them.
bool Session::aim(Target target) {
  std::vector<Trained>& trained = plans_->trained;
  const bool started = !straight_ && done_ == 1;
  const bool fits = !trained.empty() && trained.back().target == target;
  if (fits) return !started || ran_ == trained.back().cut.get();
  const auto known =
      std::find_if(trained.begin(), trained.end(), [&](const Trained& t) { return t.target == target; });
  if (known != trained.end()) {
    std::rotate(known, known + 1, trained.end());
  } else {
    if (trained.size() == most_targets) {  // every step is another
      plans_->straight = true;
      trained.clear();
      ran_ = nullptr;
    }
    trained.push_back({std::move(target), nullptr});
  }
  return !started && !plans_->straight;
}

// ---- Looks.

void Session::look_at_value(Node& node) {
  if (mixed.has(node)) return mixed.look_at_value(node);
  const bool leaf = !node.op;
  if (!plans_ || !(leaf ? listing_.has_leaf(node) : listing_.has(node))) {
    if (!leaf && !node.value() && node.elided) cache.lost(node, looked_at_value);
    return;
  }
  const bool first = plans_->look(leaf, node.position, looked_at_value);
  if (straight_) return;
  if (!node.value()) node.output.spec = plans_->specs[static_cast<std::size_t>(node.position)];
  if (leaf) {
    first ? settle() : finish();
    if (!straight_) expect_write(node);
    return;
  }
  if (done_ == 0) first ? settle() : advance(1);
  if (!node.value() && !changed_) asked_ >= 2 ? fill_values() : settle();
  if (!node.value()) cache.lost(node, looked_at_value);
  if (straight_) return;
  if (asked_ >= 2) written_ = true;  // by whoever is given its array
  if (asked_ > done_) detach(node);
}

void Session::look_at_grad(Node& node) {
  if (mixed.has(node)) return mixed.look_at_grad(node);
  const bool leaf = !node.op;
  const bool ours = plans_ && (leaf ? listing_.has_leaf(node) : listing_.has(node));
  const bool first = ours && plans_->look(leaf, node.position, looked_at_grad);
  if (ours && !straight_ && !node.value())
    node.output.spec = plans_->specs[static_cast<std::size_t>(node.position)];
  if (!ours || asked_ < 2) {  // a gradient of an earlier step
    const bool elided = (node.elided && node.has_grad) || node.grad_elided;
    if (elided && !node.output.grad) cache.lost(node, looked_at_grad);
    return;
  }
  node.has_grad = true;
  if (straight_) return;
  if (done_ < asked_) first ? settle() : finish();  // an update that is to come reads what is handed out
  if (straight_ || node.output.grad) return;
  const std::vector<Kept>& grads = ran_->grads;
  if (std::any_of(grads.begin(), grads.end(),
                  [&](const Kept& kept) { return kept.leaf == leaf && kept.position == node.position; }))
    return;  // it is zero
  if (!written_) settle();
  if (!straight_) cache.lost(node, looked_at_grad);
}

void Session::keep(Node& node) {
  node.keep = true;
  if (node.op && mixed.has(node)) mixed.keep(node);
  if (!plans_ || !(node.op ? listing_.has(node) : listing_.has_leaf(node))) return;
  if (node.op) plans_->look(false, node.position, looked_at_value);
  plans_->look(!node.op, node.position, looked_at_grad);
}

void Session::change(const Node& leaf) {
  if (mixed.has(leaf)) mixed.change();
  if (!plans_ || !listing_.has_leaf(leaf)) return;
  finish();
  changed_ = true;
}

void Session::interfere(const Node& node) {
  if (mixed.has(node)) node.op ? mixed.interfere() : mixed.change();
  if (!plans_) return;
  if (listing_.has(node) || listing_.has_leaf(node)) plans_->straight = true;
  settle();
}

const Spec* Session::spec(Node& node) const {
  if (node.value() || (node.elided && mixed.has(node))) return &node.output.spec;
  if (!plans_ || !node.elided || !listing_.has(node)) return nullptr;
  return &plans_->specs[static_cast<std::size_t>(node.position)];
}

}  // namespace edfcore
