// Recording a trace: the program's nodes are copied as nodes without values, and the same reverse walk that
// Backward takes over values is taken over the copies. So a plan computes what the program computes, by
// construction.
#include "graph/trace.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "graph/grad.h"
#include "graph/run.h"
#include "graph/vjp.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

class Tracer final : public Builder {
 public:
  explicit Tracer(const Program& program) : program_(program) {
    for (const NodeRef& node : program.nodes) listed_.insert(node.get());
    pending_ = listed_;
    for (const auto& [input, feed] : program.feeds) feeding_.insert(feed.get());
  }

  // Copies a node of the program's list. Its inputs are leaves, or were listed before it; one that is not
  // listed at all keeps the value that it has.
  Node& list(const NodeRef& original) {
    pending_.erase(original.get());
    return copy_of(original);
  }

  Node& copy_of(const NodeRef& original) {
    const auto found = copies_.find(original.get());
    if (found != copies_.end()) return *found->second;
    if (pending_.contains(original.get()))
      fail(ErrorKind::graph, "a plan needs every node after its inputs, and [", original->op->name,
           "] is used before its place in CompNodes.", made_at(*original));
    const auto fed = program_.feeds.find(original.get());
    if (fed != program_.feeds.end()) {
      Node& copy = copy_of(fed->second);
      copies_.emplace(original.get(), NodeRef(&copy));
      return copy;
    }
    const bool runs = original->op && (listed_.contains(original.get()) || feeding_.contains(original.get()));
    NodeRef copy = runs ? computed(*original) : leaf(original);
    copies_.emplace(original.get(), copy);
    return *copy;
  }

  Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) override {
    NodeRef node = make_node(op, edges_of(inputs), attrs);
    node->requires_grad = false;
    add_step(*node, "");
    made_.push_back(node);
    return value_of(*node);
  }

  void begin(Phase phase) { phase_ = phase; }

  // The update of the program's parameter number `i`. What its rule keeps decays also where no gradient
  // arrives.
  void update(Node& parameter, std::size_t i) {
    const std::span<const Part> parts = parts_of(program_.rule);
    NodeRef grad = parameter.output.grad;
    if (!grad && parts.empty()) return;
    if (!grad) grad = filled_like(parameter, 0.0, *this);
    std::vector<NodeRef>& beside = beside_[&parameter];
    if (beside.empty())
      for (const Part part : parts) beside.push_back(part_leaf(parameter, i, part));
    updated_ = static_cast<std::int32_t>(i);
    emit_update(op_of(program_.rule), parameter, *grad, beside, {}, *this);
    updated_ = -1;
  }

  // Gradients as they are shown, with what was deferred past a node that others fuse with.
  void complete_grads() {
    for (const auto& [original, copy] : copies_)
      if (!copy->deferred.empty()) copy->output.grad = total_grad(*copy, *this);
  }

  Traced take() {
    Traced result;
    const auto note = [&](auto& map, const Node* original, const Node* copy) {
      const auto found = numbers_.find(copy);
      if (found != numbers_.end()) map.emplace(original, found->second);
    };
    for (const auto& [original, copy] : copies_) {
      note(result.value_of, original, copy.get());
      if (copy->output.grad) note(result.grad_of, original, copy->output.grad.get());
      zero_grad(*copy);  // gradients and what they were deferred with may refer back to the copy
    }
    result.trace = std::move(trace_);
    result.leaves = std::move(leaves_);
    result.parts = std::move(parts_);
    return result;
  }

 private:
  NodeRef computed(const Node& original) {
    std::vector<Edge> edges;
    edges.reserve(original.inputs.size());
    for (const Edge& edge : original.inputs) edges.push_back({NodeRef(&copy_of(edge.node)), edge.index});
    NodeRef copy = make_node(*original.op, std::move(edges), original.attrs);
    copy->recorded = original.recorded;
    copy->requires_grad = original.requires_grad;
    copy->device = original.device;
    try {
      add_step(*copy, made_at(original));
    } catch (const Error& error) {  // the copy was made nowhere
      throw Error(error.kind(), error.what() + made_at(original));
    }
    return copy;
  }

  NodeRef leaf(const NodeRef& original) {
    if (original->role == Role::host)
      fail(ErrorKind::graph,
           "a plan takes nodes of the engine alone, and here an input is an object of the user's.",
           made_at(*original));
    NodeRef copy = make_leaf(original->role, {});
    copy->attrs = original->attrs;  // of a number: its value, whose dtype its consumer settles
    copy->device = original->device;
    copy->requires_grad = original->requires_grad;
    copy->recorded = original->recorded;
    if (original->role == Role::number) return copy;
    if (!original->value())
      fail(ErrorKind::graph,
           "a plan needs the shape of every input, and one has no value yet: assign its .value first.",
           made_at(*original));
    copy->output.spec = original->output.spec;
    slot(number(*copy), {original->role, {}}, original);
    return copy;
  }

  NodeRef part_leaf(const Node& parameter, std::size_t update, Part part) {
    const bool shared = part == Part::numbers;
    const DType dtype = parameter.output.spec.dtype;
    if (shared)
      for (const NodeRef& leaf : numbers_leaves_)
        if (leaf->output.spec.dtype == dtype) return leaf;
    NodeRef leaf = make_leaf(Role::constant, {});
    leaf->device = parameter.device;
    leaf->output.spec = shared ? Spec{dtype, {3}} : parameter.output.spec;
    if (shared) numbers_leaves_.push_back(leaf);
    parts_.push_back(
        {static_cast<std::int32_t>(trace_.slots.size()), static_cast<std::int32_t>(update), part});
    slot(number(*leaf), {Role::constant, {}}, {});
    return leaf;
  }

  std::int32_t number(const Node& copy) {
    const auto made = static_cast<std::int32_t>(trace_.values.size());
    const auto [found, is_new] = numbers_.emplace(&copy, made);
    if (is_new) trace_.values.push_back({copy.output.spec});
    return found->second;
  }

  void slot(std::int32_t value, Slot slot, NodeRef leaf) {
    trace_.values[static_cast<std::size_t>(value)].slot = static_cast<std::int32_t>(trace_.slots.size());
    trace_.slots.push_back(std::move(slot));
    leaves_.push_back(std::move(leaf));
  }

  void add_step(Node& node, std::string place) {
    infer_shapes(node);
    const Resolution what = resolve(node);
    TraceStep step;
    step.op = what.op;
    step.written = node.op;
    step.attrs = node.resolved;
    step.place = std::move(place);
    step.phase = phase_;
    step.update = updated_;
    if (what.op->outputs != 1) fail(ErrorKind::graph, "[", node.op->name, "] cannot be planned yet.");
    for (const Edge* edge : what.inputs) {
      Node& input = *edge->node;
      const std::size_t before = trace_.values.size();
      step.in.push_back(number(input));
      // A number became a constant of its own when its dtype was settled.
      if (input.role == Role::number && trace_.values.size() > before)
        slot(step.in[step.in.size() - 1], {Role::constant, input.value().tensor}, {});
    }
    step.out.push_back(number(node));
    trace_.steps.push_back(std::move(step));
  }

  const Program& program_;
  std::unordered_set<const Node*> listed_, pending_, feeding_;  // nodes that run; of those, the ones to come
  Trace trace_;
  std::unordered_map<const Node*, NodeRef> copies_;
  std::unordered_map<const Node*, std::int32_t> numbers_;
  std::vector<NodeRef> made_, leaves_;
  std::unordered_map<const Node*, std::vector<NodeRef>> beside_;  // what the update of a parameter reads
  std::vector<NodeRef> numbers_leaves_;                           // Part::numbers, in each dtype
  std::vector<PartSlot> parts_;
  Phase phase_ = Phase::forward;
  std::int32_t updated_ = -1;
};

}  // namespace

std::int32_t Trace::keep(std::int32_t value) {
  std::int32_t& slot = values[static_cast<std::size_t>(value)].slot;
  if (slot < 0) {
    slot = static_cast<std::int32_t>(slots.size());
    slots.push_back({});
  }
  return slot;
}

std::int32_t Trace::keep_grad(std::int32_t value, std::int32_t parameter) {
  const auto first_update = std::find_if(steps.begin(), steps.end(),
                                         [](const TraceStep& step) { return step.phase == Phase::update; });
  std::int32_t* own = nullptr;  // what the parameter's update reads
  bool shared = values[static_cast<std::size_t>(value)].slot >= 0;
  for (auto step = first_update; step != steps.end(); ++step) {
    if (step->update < 0) continue;
    if (step->in[1] == value && step->in[0] != parameter) shared = true;
    if (step->in[0] == parameter) own = &step->in[1];
  }
  if (!shared) return keep(value);
  const auto copy = static_cast<std::int32_t>(values.size());
  values.push_back({values[static_cast<std::size_t>(value)].spec});
  if (own) *own = copy;
  TraceStep step;
  step.op = step.written = &ops::reshape;
  const Shape& shape = values.back().spec.shape;
  step.attrs.n_ints = shape.rank();
  std::copy(shape.begin(), shape.end(), step.attrs.ints);
  step.in.push_back(value);
  step.out.push_back(copy);
  step.phase = Phase::backward;
  steps.insert(first_update, std::move(step));
  return keep(copy);
}

Traced trace_program(const Program& program) {
  Tracer tracer(program);
  std::vector<Node*> nodes, parameters;
  for (const NodeRef& node : program.nodes) nodes.push_back(&tracer.list(node));
  for (const NodeRef& parameter : program.parameters) parameters.push_back(&tracer.copy_of(parameter));
  if (program.loss) {
    Node& loss = tracer.copy_of(program.loss);
    tracer.begin(Phase::backward);
    seed_loss(loss, tracer);
    for (std::size_t i = nodes.size(); i-- > 0;) step(*nodes[i], tracer);
    tracer.complete_grads();
    tracer.begin(Phase::update);
    for (std::size_t i = 0; i < parameters.size(); ++i) tracer.update(*parameters[i], i);
  }
  Traced result = tracer.take();
  for (const NodeRef& node : program.nodes)
    if (node->device.type != DeviceType::cpu) result.trace.device = node->device;
  return result;
}

}  // namespace edfcore
