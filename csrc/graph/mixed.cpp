// Walking over a list that others have a say in.
#include "graph/mixed.h"

#include <algorithm>

#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"
#include "graph/watch.h"

namespace edfcore {

// ---- The walks.

void Mixed::begin_forward(std::span<Node* const> nodes, std::span<const std::int32_t> begins) {
  const bool nested = depth_++ > 0;
  session_.step_aside(false);
  if (nested) return leave();
  const bool again = plans_ && same(nodes, begins);
  if (!again) leave();
  const bool planned = !session_.keep_all && !watch().on && !nodes.empty();
  if (!planned || !(again || list_segments(nodes, begins, listing_)) || !list_shapes(listing_)) return drop();
  if (again && plans_->shapes == listing_.shapes) {
    ++session_.cache.stats.hits;
  } else {
    plans_ = session_.cache.find(listing_);
    adopt(begins);
  }
  walk_ = Walk::forward;
  next_ = ran_ = 0;
  for (Progress& progress : progress_) progress.when = 0, progress.grads.clear();
  straight_ = plans_->straight;
  changed_ = walked_back_ = false;
  for (const NodeRef& leaf : listing_.leaves)  // whoever holds it may write it
    if (leaf->role != Role::host && leaf->value().held()) plans_->look(true, leaf->position, looked_at_value);
  looked_ = plans_->looked;
}

void Mixed::begin_backward(std::span<Node* const> nodes, std::span<const std::int32_t> begins, Node* loss) {
  const bool nested = depth_++ > 0;
  session_.step_aside(true);
  if (nested || !plans_ || ran_ < plans_->segments.size() || !same(nodes, begins)) {
    settle();
    return leave();
  }
  if (watch().on) settle();
  if (loss && listing_.has(*loss)) look_at_value(*loss);
  walk_ = Walk::backward;
  next_ = plans_->segments.size();
  walked_back_ = true;
}

void Mixed::end(bool complete) {
  if (--depth_ > 0) return;
  const bool all = plans_ && next_ == (walk_ == Walk::forward ? plans_->segments.size() : 0);
  walk_ = Walk::none;
  if (complete && !all) leave();  // somebody cut the list short
}

void Mixed::forward(std::span<const NodeRef> nodes) {
  Segment* const segment =
      walk_ == Walk::forward && next_ < progress_.size() ? &plans_->segments[next_] : nullptr;
  if (segment && !std::ranges::equal(nodes, nodes_of(listing_, *segment))) leave();
  if (walk_ != Walk::forward || !segment) {
    for (const NodeRef& node : nodes) run(*node);
    return;
  }
  Progress& progress = progress_[next_];
  SegmentPlans& known = variant_of(listing_, *segment);
  progress.known = &known;
  progress.planned = false;
  SegmentPlan* plan = nullptr;
  if (!straight_ && !known.straight && known.seen >= session_.straight_runs) {
    try {
      plan = &forward_plan(listing_, *plans_, *segment, known, session_.cache.stats.compiled);
    } catch (const Error&) {  // what a plan cannot do yet, or what is wrong, shows node by node
      known.straight = true;
    }
  }
  if (plan) {
    run_forward(listing_, *segment, known, *plan, session_.poll);
    progress.planned = true;
    ran_by_plan(nodes);
  } else {
    for (const NodeRef& node : nodes) run(*node);
    ++known.seen;
  }
  ran_ = ++next_;
}

void Mixed::backward(std::span<const NodeRef> nodes) {
  if (walk_ == Walk::backward) {
    const std::span<const NodeRef> expected =
        next_ > 0 ? nodes_of(listing_, plans_->segments[next_ - 1]) : std::span<const NodeRef>();
    if (!std::equal(nodes.begin(), nodes.end(), expected.rbegin(), expected.rend())) leave();
  }
  SegmentPlan* plan = nullptr;
  if (walk_ == Walk::backward) {
    const std::size_t s = --next_;
    plan = plan_back(s);
    const bool planned = progress_[s].planned;
    if (planned && !plan) go_straight();
    if (!planned) plan = nullptr;  // it was made for what Forward is to leave, the next time
    if (plan) {
      Progress& progress = progress_[s];
      progress.arrived = plan->arrived;
      progress.grads = grads_read(listing_, *plan);
      run_backward(listing_, plans_->segments[s], *plan, session_.poll);
      progress.when = ++clock_;
      ran_by_plan(nodes);
    }
  }
  if (!plan)
    for (const NodeRef& node : nodes) backward_step(*node);
}

std::vector<std::string> Mixed::describe(std::span<Node* const> nodes,
                                         std::span<const std::int32_t> begins) const {
  std::vector<std::string> found;
  if (!plans_ || !same(nodes, begins)) return found;
  for (const Progress& progress : progress_) {
    found.emplace_back();
    if (!progress.known || !progress.known->forward) continue;
    found.back() = "Forward: " + progress.known->forward->runner.plan().describe();
    if (!progress.known->backward.empty())
      found.back() += "Backward: " + progress.known->backward.back()->runner.plan().describe();
  }
  return found;
}

void Mixed::ran_by_plan(std::span<const NodeRef> nodes) {
  for (const NodeRef& node : nodes) node->plans = plans_->id;  // which may have done without something
  ++session_.cache.stats.segments;
}

// The plan for what has arrived; null when there is none, or when Forward has not left what it reads.
SegmentPlan* Mixed::plan_back(std::size_t s) {
  Segment& segment = plans_->segments[s];
  SegmentPlans& known = *progress_[s].known;
  std::vector<std::uint8_t> arrived;
  if (plans_->straight || known.straight || known.seen < session_.straight_runs ||
      !list_arrived(listing_, segment, arrived))
    return nullptr;
  SegmentPlan* plan = nullptr;
  try {
    plan =
        &backward_plan(listing_, *plans_, segment, known, std::move(arrived), session_.cache.stats.compiled);
  } catch (const Error&) {
    known.straight = true;
    return nullptr;
  }
  for (const Tie& tie : plan->values)
    if (!node_at(listing_, tie.member).value()) return nullptr;
  return plan;
}

bool Mixed::same(std::span<Node* const> nodes, std::span<const std::int32_t> begins) const {
  return listing_.same_nodes(nodes) && std::ranges::equal(begins, begins_);
}

void Mixed::adopt(std::span<const std::int32_t> begins) {
  active_ = true;
  if (std::ranges::find(all_, plans_) == all_.end()) all_.push_back(plans_);
  begins_.assign(begins.begin(), begins.end());
  if (plans_->segments.empty()) divide(listing_, begins, *plans_);
  progress_.clear();
  progress_.resize(begins.size());
  seen_nodes_.assign(listing_.nodes.size(), 0);
  seen_leaves_.assign(listing_.leaves.size(), 0);
  for (const NodeRef& node : listing_.nodes)
    if (node->keep) keep(*node);
}

// ---- What others do meanwhile.

bool Mixed::has(const Node& node) const {
  return plans_ && (node.op ? listing_.has(node) : listing_.has_leaf(node));
}

void Mixed::look_at_value(Node& node) {
  const bool first = plans_->look(!node.op, node.position, looked_at_value);
  if (first && node.op && walked_back_ && walk_ == Walk::none) {  // then soon at its gradient, probably
    plans_->look(false, node.position, looked_at_grad);
    if (node.grad_elided && !node.output.grad) run_again(node);
  }
  (node.op ? seen_nodes_ : seen_leaves_)[static_cast<std::size_t>(node.position)] = clock_;
  const bool missing = node.op && !node.value() && node.elided;
  if (missing || plans_->looked != looked_) settle();
  if (missing && !node.value()) lost(node, looked_at_value);
}

void Mixed::look_at_grad(Node& node) {
  plans_->look(!node.op, node.position, looked_at_grad);
  const bool before = !node.op && node.elided && node.has_grad;  // by a plan of another list
  if ((node.grad_elided || before) && !node.output.grad && !run_again(node)) lost(node, looked_at_grad);
}

// Runs Backward of the node's segment once more, now that one more of its gradients is wanted. False where
// something that this reads is not there any more, or is not what it was.
bool Mixed::run_again(const Node& node) {
  std::size_t s = 0;
  while (node.op && s < progress_.size() && node.position >= plans_->segments[s].last) ++s;
  if (!node.op || s == progress_.size() || progress_[s].when == 0 || changed_) return false;
  const Progress& progress = progress_[s];
  settle();
  const Segment& segment = plans_->segments[s];
  SegmentPlan& plan = backward_plan(listing_, *plans_, segment, *progress.known, progress.arrived,
                                    session_.cache.stats.compiled);
  const auto held = [](const NodeRef& grad) { return grad->value().held(); };
  if (std::ranges::any_of(progress.grads, held)) return false;
  std::vector<NodeRef> suspects;  // that somebody may have written
  for (const Tie& tie : plan.values) {
    Node& read = node_at(listing_, tie.member);
    const std::uint64_t seen =
        (tie.member.leaf ? seen_leaves_ : seen_nodes_)[static_cast<std::size_t>(read.position)];
    if (!read.value()) return false;
    if (seen < progress.when && !read.value().held()) continue;
    if (tie.member.leaf || read.position < segment.first) return false;
    suspects.emplace_back(&read);
  }
  if (!suspects.empty() && !as_computed(listing_, segment, suspects)) return false;
  run_backward_again(listing_, segment, plan, progress.grads);
  return true;
}

void Mixed::lost(Node& node, Look look) {
  for (const std::shared_ptr<Plans>& plans : all_) plans->look(!node.op, node.position, look);
  session_.cache.lost(node, look);
}

void Mixed::keep(Node& node) {
  plans_->look(false, node.position, looked_at_value);
  plans_->look(false, node.position, looked_at_grad);
}

void Mixed::change() {
  if (!plans_) return;
  if (walk_ != Walk::none) interfere();
  changed_ = true;
}

void Mixed::interfere() {
  plans_->straight = true;
  settle();
}

void Mixed::settle() {
  if (plans_ && !changed_ && !straight_) go_straight();
}

// Gives every node what running it by itself leaves.
void Mixed::go_straight() {
  straight_ = true;
  for (std::size_t s = 0; s < ran_; ++s) {
    if (!std::exchange(progress_[s].planned, false)) continue;
    for (const NodeRef& node : nodes_of(listing_, plans_->segments[s])) {
      if (node->value())
        infer_only(*node);
      else if (changed_)
        lost(*node, looked_at_value);
      else
        run(*node);
    }
  }
}

void Mixed::leave() {
  if (!plans_) return;
  if (walk_ != Walk::none) plans_->straight = true;
  if (walk_ != Walk::none || !walked_back_) settle();
  drop();
}

void Mixed::drop() {
  active_ = false;
  plans_ = {};
  all_.clear();
  progress_.clear();
  walk_ = Walk::none;
  let_go(listing_.nodes);
  listing_.leaves.clear();
  ran_ = 0;
}

}  // namespace edfcore
