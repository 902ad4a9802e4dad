// The reverse walk.
#include "graph/grad.h"

#include <algorithm>

#include "device/memory.h"
#include "graph/vjp.h"
#include "graph/watch.h"
#include "ops/ops.h"

namespace edfcore {

Value RunningBuilder::emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) {
  NodeRef node = make_node(op, edges_of(inputs), attrs);
  run(*node);
  if (!record_) forget_history(*node);
  made_.push_back(node);
  return value_of(*node);
}

Edges edges_of(std::span<const Value> values) {
  Edges edges;
  edges.reserve(values.size());
  for (const Value& value : values) edges.push_back({NodeRef(value.node), value.index});
  return edges;
}

Small<const Edge*> pointers(const Edges& edges) {
  Small<const Edge*> result;
  for (const Edge& edge : edges) result.push_back(&edge);
  return result;
}

void add_to(Output& output, NodeRef contribution, Builder& builder) {
  if (!output.grad) {
    // Memory that was handed out to the host belongs to one gradient alone: what is written there must not
    // show here.
    const Tensor& tensor = contribution->value().tensor;
    const bool handed_out = tensor && (!tensor.buffer->unique() || contribution->value().mirror);
    if (!contribution->requires_grad && handed_out)
      contribution = make_leaf(Role::constant, copy_to(contribution->value().on_device(), tensor.device()));
    output.grad = std::move(contribution);
    return;
  }
  const Value sum[] = {value_of(*output.grad), value_of(*contribution)};
  output.grad = NodeRef(builder.emit(ops::add, sum, {}).node);
}

namespace {

// Nothing that the node read or made was updated in place since it ran.
bool values_unchanged(Node& node) {
  for (std::int32_t i = 0; i < node.outputs(); ++i)
    if (node.out(i).version != node.out(i).value.tensor.buffer->version) return false;
  if (node.ran != node.op &&
      !inputs_unchanged(*node.inputs[static_cast<std::size_t>(node.op->fuses->input)].node))
    return false;
  return inputs_unchanged(node);
}

// Everything a gradient can reach from `loss`, latest first.
std::vector<NodeRef> reverse_tape(Node& loss) {
  const std::uint64_t mark = next_mark();
  std::vector<NodeRef> found{NodeRef(&loss)};
  loss.mark = mark;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Node& node = *found[i];  // stays where it is while `found` grows
    for (const Edge& edge : node.inputs) {
      if (!edge.node->requires_grad || edge.node->mark == mark) continue;
      edge.node->mark = mark;
      found.push_back(edge.node);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const NodeRef& a, const NodeRef& b) { return a->serial > b->serial; });
  return found;
}

}  // namespace

void step(Node& node, Builder& builder) {
  if (!node.op) return;
  if (node.assigned) infer_only(node);
  if (!node.ran) return;
  absorb_shown(node);
  pass_deferred(node, builder);

  Small<Value, 2> outputs, grads;
  bool zero = true;
  for (std::int32_t i = 0; i < node.outputs(); ++i) {
    Output& out = node.out(i);
    outputs.push_back(value_of(node, i));
    grads.push_back(out.grad ? value_of(*out.grad) : Value{});
    zero &= !out.grad;
  }
  if (zero) return;
  const bool fused = node.ran != node.op;
  const bool defers = fused && node.recorded;
  // The eager face has one value per node, so a gradient from an updated input would be silently wrong.
  if (!node.recorded && !values_unchanged(node))
    fail(ErrorKind::graph, "[", node.op->name,
         "] a value that its gradient needs was updated in place since this node ran.", made_at(node));
  const Op* op = node.ran;
  Small<const Edge*> inputs = pointers(node.inputs);
  if (fused) {
    Resolution what = resolve(node);
    inputs = std::move(what.inputs);
    op = what.op;  // what it ran, unless the producer was assigned since
  }
  call_vjp(
      *op, inputs, outputs, grads, node.resolved(), builder,
      [&](std::size_t i, NodeRef contribution) {
        add_to(output_of(*inputs[i]), std::move(contribution), builder);
      },
      defers ? Whom{node.op->fuses->input} : Whom{});
  if (defers) defer(node);
}

void backward_step(Node& node, bool record) {
  RunningBuilder builder(record);
  if (!watch().nan) return step(node, builder);
  try {
    step(node, builder);
  } catch (const Error& error) {  // ops of the backward pass have no place of their own
    throw Error(error.kind(),
                text(error.what(), " In the gradient of [", node.op->name, "].", made_at(node)));
  }
}

void backward(Node& loss, NodeRef seed, bool record) {
  if (!loss.requires_grad)
    fail(ErrorKind::graph, "backward: nothing that this value was computed from requires a gradient.");
  if (!seed) {
    if (loss.output.spec.shape.size() != 1)
      fail(ErrorKind::graph, "backward: the value has shape ", loss.output.spec.shape,
           "; a gradient of that shape must be given, or reduce it to one element first.");
    seed = filled_like(loss, 1.0);
  }
  const std::vector<NodeRef> tape = reverse_tape(loss);
  const auto drop_inner = [&] {
    for (const NodeRef& node : tape)
      if (node->op)
        for (std::int32_t i = 0; i < node->outputs(); ++i) node->out(i).grad = {};
  };
  drop_inner();  // also what an earlier walk left when it was interrupted
  try {
    accumulate_grad(loss.output, std::move(seed));
    for (const NodeRef& node : tape) {
      backward_step(*node, record);
      if (!node->op) continue;
      for (std::int32_t i = 0; i < node->outputs(); ++i) node->out(i).grad = {};
    }
    for (const NodeRef& node : tape)  // leaves that got the very same gradient get one each
      if (!node->op && node->output.grad && !(record && node->output.grad->requires_grad)) own_grad(*node);
  } catch (...) {
    drop_inner();
    throw;
  }
}

void accumulate_grad(Output& output, NodeRef contribution) {
  RunningBuilder builder(false);
  add_to(output, std::move(contribution), builder);
}

void zero_grad(Node& node) {
  for (std::int32_t i = 0; i < node.outputs(); ++i) node.out(i).grad = {};
  node.deferred.clear();
  node.shown.reset();
  node.has_grad = true;
  node.grad_elided = false;
  if (!node.op) node.elided = false;
}

Node& own_grad(Node& node) {
  NodeRef& grad = node.output.grad;
  if (!grad) {
    grad = make_leaf(Role::constant, zeros(node.output.spec, node.device));
  } else if (grad->refs.load() > 1) {
    Cell& cell = grad->value();
    grad = make_leaf(Role::constant, copy_to(cell.on_device(), cell.tensor.device()));
  }
  return *grad;
}

NodeRef filled_like(Node& node, double scalar) {
  RunningBuilder builder(false);
  return filled_like(node, scalar, builder);
}

NodeRef filled_like(Node& node, double scalar, Builder& builder) {
  Attrs attrs;
  attrs.scalar = scalar;
  const Value like[] = {value_of(node)};
  return NodeRef(builder.emit(ops::fill_like, like, attrs).node);
}

double share_of_batch(std::span<const std::int64_t> shape) {
  for (const std::int64_t dim : shape)
    if (dim == 0) fail(ErrorKind::graph, "Backward: the loss has no examples (its value is empty).");
  return shape.empty() ? 1.0 : 1.0 / static_cast<double>(shape[0]);
}

double share_of_batch(const Shape& shape) {
  return share_of_batch(std::span(shape.data(), static_cast<std::size_t>(shape.rank())));
}

void seed_loss(Node& loss, Builder& builder) {
  loss.output.grad = filled_like(loss, share_of_batch(loss.output.spec.shape), builder);
}

void walk_back(std::span<const NodeRef> nodes, Node& loss) {
  RunningBuilder builder(false);
  seed_loss(loss, builder);
  for (std::size_t i = nodes.size(); i-- > 0;) backward_step(*nodes[i]);
}

void emit_update(const Op& op, Node& parameter, Node& grad, std::span<const NodeRef> beside, Scalars scalars,
                 Builder& builder) {
  Small<Value> inputs;
  inputs.push_back(value_of(parameter));
  inputs.push_back(value_of(grad));
  for (const NodeRef& node : beside) inputs.push_back(value_of(*node));
  Attrs attrs;
  attrs.scalar = scalars.first;
  attrs.scalar2 = scalars.second;
  builder.emit(op, inputs, attrs);
}

namespace {

// Makes nodes that are to be run.
class NodeMaker final : public Builder {
 public:
  Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) override {
    made.push_back(make_node(op, edges_of(inputs), attrs));
    return value_of(*made.back());
  }
  std::vector<NodeRef> made;
};

}  // namespace

void update(std::span<Node* const> parameters, const Rule& rule) {
  const Op& op = op_of(rule.kind);
  check_grads(parameters, op);
  RuleNumbers numbers;
  Updating updating(parameters, rule, numbers);
  const std::span<const Scalars> scalars = updating.next();
  NodeMaker maker;
  const auto run_made = [&] {
    run_together(op, maker.made);
    maker.made.clear();
  };
  std::uint64_t mark = next_mark();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Node& p = *parameters[i];
    // One that stands there again is updated again.
    if (p.mark == mark || (i > 0 && !(p.device == parameters[i - 1]->device))) {
      run_made();
      mark = next_mark();
    }
    p.mark = mark;
    std::vector<NodeRef> beside;
    for (const Part part : parts_of(rule.kind))
      beside.push_back(make_leaf(Role::constant, updating.read(i, part)));
    if (beside.empty() && !p.output.grad) continue;
    // Zeros where none arrived: what was kept decays all the same.
    emit_update(op, p, beside.empty() ? *p.output.grad : own_grad(p), beside, scalars[i], maker);
  }
  run_made();
  updating.taken();
}

}  // namespace edfcore
