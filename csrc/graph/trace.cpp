// Recording a trace: the program's nodes are copied as nodes without values, and the same reverse walk that
// Backward takes over values is taken over the copies. So a plan computes what the program computes, by
// construction.
#include "graph/trace.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "graph/grad.h"
#include "graph/run.h"
#include "graph/vjp.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

class Tracer final : public Builder {
 public:
  Tracer(const Program& program, bool places) : program_(program), places_(places), mark_(next_mark()) {
    const std::size_t n = program.nodes.size();
    for (const NodeRef& node : program.nodes) {
      node->mark = mark_;
      node->traced = to_come;
    }
    copies_.reserve(n + n / 4);
    trace_.values.reserve(4 * n);
    trace_.steps.reserve(4 * n);
  }

  ~Tracer() {
    // Gradients and what they were deferred with may refer back to the copy.
    for (const NodeRef& copy : copies_) zero_grad(*copy);
    let_go(copies_);
  }

  // Copies a node of the program's list. Its inputs are leaves, or were listed before it; one that is not
  // listed at all keeps the value that it has.
  Node& list(const NodeRef& original) {
    listed_ = &original - program_.nodes.data();
    if (original->traced == to_come) computed(*original);
    listed_ = -1;
    return *copies_[static_cast<std::size_t>(original->traced)];
  }

  Node& copy_of(const NodeRef& original) {
    if (original->mark != mark_) {
      const auto fed = program_.feeds.find(original.get());
      if (fed == program_.feeds.end()) return leaf(original);
      return fed_by(*original, fed->second);
    }
    if (original->traced == to_come)
      fail(ErrorKind::graph, "a plan needs every node after its inputs, and [", original->op->name,
           "] is used before its place in CompNodes.", made_at(*original));
    return *copies_[static_cast<std::size_t>(original->traced)];
  }

  // Only what is still to be read stays: a node that was emitted holds nothing but its number and its dtype
  // and shape.
  Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) override {
    bool plain = !op.fuses && !(op.flags & op_producer);
    for (const Value& input : inputs) plain &= input.node->role != Role::number;
    made_.push_back(plain ? plain_step(op, inputs, attrs) : general_step(op, inputs, attrs));
    return value_of(*made_.back());
  }

  // One node's part of the reverse walk.
  void walk(Node& copy) {
    step(copy, *this);
    made_.clear();
  }

  void begin(Phase phase) { phase_ = phase; }

  // The values that were traced so far are there: leaves, and nothing computes them.
  void take_as_given() {
    for (const NodeRef& node : program_.nodes) {
      const Node& copy = *copies_[static_cast<std::size_t>(node->traced)];
      slot(copy.position, {Role::computed, {}}, node);
    }
    trace_.steps.clear();
  }

  // Gives the node a gradient that is there already; returns its slot.
  std::int32_t arrive(Node& copy) {
    NodeRef grad = make_leaf(Role::constant, {});
    grad->device = copy.device;
    grad->output.spec = copy.output.spec;
    slot(number(*grad), {Role::constant, {}}, {});
    copy.output.grad = std::move(grad);
    return static_cast<std::int32_t>(trace_.slots.size()) - 1;
  }

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
    for (const NodeRef& copy : copies_)
      if (!copy->deferred.empty()) copy->output.grad = total_grad(*copy, *this);
  }

  Traced take() {
    Traced result;
    const auto note = [&](const std::vector<NodeRef>& nodes, auto& values, auto& grads) {
      values.reserve(nodes.size());
      grads.reserve(nodes.size());
      for (const NodeRef& node : nodes) {
        const Node& copy = copy_of(node);
        values.push_back(copy.position);
        grads.push_back(copy.output.grad ? copy.output.grad->position : -1);
      }
    };
    note(program_.nodes, result.values, result.grads);
    note(program_.parameters, result.parameter_values, result.parameter_grads);
    result.trace = std::move(trace_);
    result.leaves = std::move(leaves_);
    result.parts = std::move(parts_);
    return result;
  }

 private:
  static constexpr std::int32_t to_come = -1;  // Node::traced of a listed node

  Node& remember(Node& original, NodeRef copy) {
    original.mark = mark_;
    original.traced = static_cast<std::int32_t>(copies_.size());
    copies_.push_back(std::move(copy));
    return *copies_.back();
  }

  Node& computed(Node& original) {
    Edges edges;
    edges.reserve(original.inputs.size());
    for (const Edge& edge : original.inputs) edges.push_back({NodeRef(&copy_of(edge.node)), edge.index});
    NodeRef copy = make_node(*original.op, std::move(edges), original.attrs);
    copy->recorded = original.recorded;
    copy->requires_grad = original.requires_grad;
    copy->device = original.device;
    try {
      add_step(*copy);
    } catch (const Error& error) {  // the copy was made nowhere
      throw Error(error.kind(), error.what() + made_at(original));
    }
    if (places_) trace_.steps.back().place = place_of(original);
    return remember(original, std::move(copy));
  }

  // Graphs have many nodes, made at few places.
  std::int32_t place_of(const Node& node) {
    const auto [known, made] =
        known_places_.try_emplace({node.site.code, node.site.position}, std::int32_t{-1});
    if (made && node.site.code) {
      known->second = static_cast<std::int32_t>(trace_.places.size());
      trace_.places.push_back(made_at(node));
    }
    return known->second;
  }

  Node& fed_by(Node& input, const NodeRef& feed) {
    const std::ptrdiff_t reader = std::exchange(listed_, -1);
    NodeRef copy(feed->mark == mark_ ? copies_[static_cast<std::size_t>(feed->traced)].get()
                                     : &computed(*feed));
    listed_ = reader;
    return remember(input, std::move(copy));
  }

  Node& leaf(const NodeRef& original) {
    if (original->role == Role::host && !program_.segment)
      fail(ErrorKind::graph,
           "a plan takes nodes of the engine alone, and here an input is an object of the user's.",
           made_at(*original));
    NodeRef copy = make_leaf(original->role, {});
    copy->attrs = original->attrs;  // of a number: its value, whose dtype its consumer settles
    copy->device = original->device;
    copy->requires_grad = original->requires_grad;
    copy->recorded = original->recorded;
    if (original->role != Role::number) {
      if (!original->value())
        fail(ErrorKind::graph,
             "a plan needs the shape of every input, and one has no value yet: assign its .value first.",
             made_at(*original));
      copy->output.spec = original->output.spec;
      slot(number(*copy), {original->role, {}}, original);
    }
    return remember(*original, std::move(copy));
  }

  NodeRef part_leaf(const Node& parameter, std::size_t update, Part part) {
    const bool shared = part == Part::numbers;
    const Spec spec = spec_of(part, parameter.output.spec);
    if (shared)
      for (const NodeRef& leaf : numbers_leaves_)
        if (leaf->output.spec == spec) return leaf;
    NodeRef leaf = make_leaf(Role::constant, {});
    leaf->device = parameter.device;
    leaf->output.spec = spec;
    if (shared) numbers_leaves_.push_back(leaf);
    parts_.push_back(
        {static_cast<std::int32_t>(trace_.slots.size()), static_cast<std::int32_t>(update), part});
    slot(number(*leaf), {Role::constant, {}}, {});
    return leaf;
  }

  // Of a copy, or of what was emitted: its value.
  std::int32_t number(Node& copy) {
    if (copy.position < 0) {
      copy.position = static_cast<std::int32_t>(trace_.values.size());
      trace_.values.push_back({copy.output.spec});
    }
    return copy.position;
  }

  void slot(std::int32_t value, Slot slot, NodeRef leaf) {
    trace_.values[static_cast<std::size_t>(value)].slot = static_cast<std::int32_t>(trace_.slots.size());
    trace_.slots.push_back(std::move(slot));
    leaves_.push_back(std::move(leaf));
  }

  TraceStep& begin_step(const Op& op, const Op& written, const Attrs& attrs) {
    if (op.outputs != 1) fail(ErrorKind::graph, "[", written.name, "] cannot be planned yet.");
    TraceStep& step = trace_.steps.emplace_back();
    step.op = &op;
    step.written = &written;
    step.attrs = attrs;
    step.node = static_cast<std::int32_t>(listed_);
    step.phase = phase_;
    step.update = updated_;
    return step;
  }

  void add_step(Node& node) {
    const Resolution what = infer_shapes(node);
    TraceStep& step = begin_step(*what.op, *node.op, node.resolved());
    for (const Edge* edge : what.inputs) {
      Node& input = *edge->node;
      const std::size_t before = trace_.values.size();
      step.in.push_back(number(input));
      // A number became a constant of its own when its dtype was settled.
      if (input.role == Role::number && trace_.values.size() > before)
        slot(input.position, {Role::constant, input.value().tensor}, {});
    }
    step.out.push_back(number(node));
  }

  // What a vjp emits, where nothing could be fused: there is no need to write down its inputs but in the
  // step.
  NodeRef plain_step(const Op& op, std::span<const Value> inputs, const Attrs& attrs) {
    TraceStep& step = begin_step(op, op, attrs);
    Small<Spec> in;
    for (const Value& input : inputs) {
      in.push_back(*input.spec);
      step.in.push_back(number(*input.node));
    }
    NodeRef made = make_leaf(Role::constant, {});
    Inference inference{op, in, step.attrs, {&made->output.spec, 1}};
    op.infer(inference);
    step.out.push_back(number(*made));
    return made;
  }

  NodeRef general_step(const Op& op, std::span<const Value> inputs, const Attrs& attrs) {
    NodeRef made = make_node(op, edges_of(inputs), attrs);
    made->requires_grad = false;
    add_step(*made);
    if (!(op.flags & op_producer)) made->inputs.clear();
    return made;
  }

  const Program& program_;
  const bool places_;
  const std::uint64_t mark_;
  std::ptrdiff_t listed_ = -1;  // the node of the list that is being copied
  Trace trace_;
  std::vector<NodeRef> copies_;  // Node::traced of the originals
  std::vector<NodeRef> made_, leaves_;
  std::unordered_map<const Node*, std::vector<NodeRef>> beside_;  // what the update of a parameter reads
  std::vector<NodeRef> numbers_leaves_;                           // Part::numbers, in each dtype
  std::vector<PartSlot> parts_;
  std::map<std::pair<const void*, std::int32_t>, std::int32_t> known_places_;
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

static Traced taken(Tracer& tracer, const Program& program) {
  Traced result = tracer.take();
  for (const NodeRef& node : program.nodes)
    if (node->device.type != DeviceType::cpu) result.trace.device = node->device;
  return result;
}

Traced trace_program(const Program& program, bool places) {
  Tracer tracer(program, places);
  std::vector<Node*> nodes, parameters;
  for (const NodeRef& node : program.nodes) nodes.push_back(&tracer.list(node));
  for (const NodeRef& parameter : program.parameters) parameters.push_back(&tracer.copy_of(parameter));
  if (program.loss) {
    Node& loss = tracer.copy_of(program.loss);
    tracer.begin(Phase::backward);
    seed_loss(loss, tracer);
    for (std::size_t i = nodes.size(); i-- > 0;) tracer.walk(*nodes[i]);
    tracer.complete_grads();
    tracer.begin(Phase::update);
    for (std::size_t i = 0; i < parameters.size(); ++i) tracer.update(*parameters[i], i);
  }
  return taken(tracer, program);
}

Traced trace_backward(const Program& program, const std::vector<std::uint8_t>& arrived) {
  Tracer tracer(program, false);
  std::vector<Node*> all;
  for (const NodeRef& node : program.nodes) all.push_back(&tracer.list(node));
  for (const NodeRef& parameter : program.parameters) all.push_back(&tracer.copy_of(parameter));
  tracer.take_as_given();
  tracer.begin(Phase::backward);
  std::vector<std::int32_t> slots;
  for (std::size_t i = 0; i < all.size(); ++i) slots.push_back(arrived[i] ? tracer.arrive(*all[i]) : -1);
  for (std::size_t i = program.nodes.size(); i-- > 0;) tracer.walk(*all[i]);
  tracer.complete_grads();
  Traced result = taken(tracer, program);
  result.arrived = std::move(slots);
  return result;
}

}  // namespace edfcore
