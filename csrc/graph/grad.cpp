// The reverse walk.
#include "graph/grad.h"

#include <algorithm>

#include "device/memory.h"
#include "graph/run.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

Value value_of(const Edge& edge) {
  if (!edge.node) return {};
  return {edge.node.get(), edge.index, &edge.node->out(edge.index).spec};
}

// Runs what it is given at once. Without `record` the result forgets what it was made from.
class RunningBuilder final : public Builder {
 public:
  explicit RunningBuilder(bool record) : record_(record) {}

  Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) override {
    std::vector<Edge> edges;
    edges.reserve(inputs.size());
    for (const Value& input : inputs) edges.push_back({NodeRef(input.node), input.index});
    NodeRef node = make_node(op, std::move(edges), attrs);
    run(*node);
    if (!record_) {
      node->inputs.clear();
      node->op = nullptr;
      node->role = Role::constant;
      node->requires_grad = false;
    }
    made_.push_back(node);
    return {node.get(), 0, &node->output.spec};
  }

 private:
  bool record_;
  std::vector<NodeRef> made_;  // a Value is a bare pointer: everything lives until the vjp's results are taken
};

// Calls a vjp; deliver(i, node) receives each contribution.
template <class Deliver>
void call_vjp(const Op& op, std::span<const Edge* const> inputs, std::span<const Value> outputs,
              std::span<const Value> grads, const Attrs& attrs, Builder& builder, const Deliver& deliver) {
  Small<Value> in(inputs.size()), result(inputs.size());
  Small<bool> wanted(inputs.size());
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    in[i] = value_of(*inputs[i]);
    wanted[i] = inputs[i]->node && inputs[i]->node->requires_grad;
    any |= wanted[i];
  }
  if (!any) return;
  if (!op.vjp) fail(ErrorKind::graph, "[", op.name, "] has no gradient.");
  op.vjp(builder, {in, outputs, grads, attrs, wanted, result});
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (wanted[i] && result[i]) deliver(i, NodeRef(result[i].node));
}

void add_to(Output& output, NodeRef contribution, Builder& builder) {
  if (!output.grad) {
    output.grad = std::move(contribution);
    return;
  }
  const Value sum[] = {{output.grad.get(), 0, &output.grad->output.spec}, {contribution.get(), 0, &contribution->output.spec}};
  output.grad = NodeRef(builder.emit(ops::add, sum, {}).node);
}

Small<const Edge*> pointers(const std::vector<Edge>& edges) {
  Small<const Edge*> result;
  for (const Edge& edge : edges) result.push_back(&edge);
  return result;
}

// The gradients that were kept apart go on, each the stable way: to what this node was computed from.
void pass_deferred(Node& node, Builder& builder) {
  for (const Deferred& d : node.deferred) {
    Small<const Edge*> inputs = pointers(d.inputs);
    inputs[static_cast<std::size_t>(d.input)] = &node.inputs[0];
    const Value grad[] = {{d.grad.get(), 0, &d.grad->output.spec}};
    call_vjp(*d.into, inputs, {}, grad, d.resolved, builder, [&](std::size_t i, NodeRef contribution) {
      add_to(inputs[i]->node->out(inputs[i]->index), std::move(contribution), builder);
    });
  }
}

// The same gradients as a look at this node's own .grad shows them: as if nothing had been fused.
void settle_deferred(Node& node, Builder& builder) {
  for (const Deferred& d : std::exchange(node.deferred, {})) {
    Small<const Edge*> inputs = pointers(d.inputs);
    const Edge self{NodeRef(&node), 0};
    inputs[static_cast<std::size_t>(d.input)] = &self;
    const Value grad[] = {{d.grad.get(), 0, &d.grad->output.spec}};
    call_vjp(*d.op, inputs, {}, grad, d.resolved, builder, [&](std::size_t i, NodeRef contribution) {
      if (static_cast<std::int32_t>(i) == d.input) add_to(node.output, std::move(contribution), builder);
    });
  }
}

void defer(Node& node, const Fusion& fusion) {
  Deferred d{node.op, node.ran, fusion.input, node.inputs, node.resolved, node.output.grad};
  Node& producer = *std::exchange(d.inputs[static_cast<std::size_t>(fusion.input)], {}).node;
  producer.deferred.push_back(std::move(d));
}

void step(Node& node, Builder& builder) {
  if (!node.op) return;
  if (node.assigned) infer_only(node);
  if (!node.ran) return;
  if (!node.deferred.empty()) pass_deferred(node, builder);

  Small<Value, 2> outputs, grads;
  bool zero = true;
  for (std::int32_t i = 0; i < node.outputs(); ++i) {
    Output& out = node.out(i);
    outputs.push_back({&node, i, &out.spec});
    grads.push_back(out.grad ? Value{out.grad.get(), 0, &out.grad->output.spec} : Value{});
    zero &= !out.grad;
  }
  if (zero) return;
  const bool fused = node.ran != node.op;
  if (fused && node.recorded) {
    defer(node, *node.op->fuses);
    return;
  }
  // The eager face has one value per node, so a gradient from an updated input would be silently wrong.
  for (const Edge& edge : node.inputs)
    if (!node.recorded && edge.version != edge.node->version)
      fail(ErrorKind::graph, "[", node.op->name, "] an input was updated in place since this node ran: its gradient ",
           "would be wrong.", made_at(node));
  Small<const Edge*> inputs = pointers(node.inputs);
  if (fused) inputs = resolve(node).inputs;
  call_vjp(*node.ran, inputs, outputs, grads, node.resolved, builder, [&](std::size_t i, NodeRef contribution) {
    add_to(inputs[i]->node->out(inputs[i]->index), std::move(contribution), builder);
  });
}

std::uint64_t next_mark() {
  static std::atomic<std::uint64_t> mark{0};
  return ++mark;
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
  std::sort(found.begin(), found.end(), [](const NodeRef& a, const NodeRef& b) { return a->serial > b->serial; });
  return found;
}

}  // namespace

void backward_step(Node& node, bool record) {
  RunningBuilder builder(record);
  step(node, builder);
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
  } catch (...) {
    drop_inner();
    throw;
  }
}

void accumulate_grad(Output& output, NodeRef contribution) {
  RunningBuilder builder(false);
  add_to(output, std::move(contribution), builder);
}

Node& own_grad(Node& node) {
  if (!node.deferred.empty()) {
    RunningBuilder builder(false);
    settle_deferred(node, builder);
  }
  NodeRef& grad = node.output.grad;
  if (!grad) {
    grad = filled_like(node, 0.0);
  } else if (grad->refs.load() > 1) {
    Cell& cell = grad->value();
    grad = make_leaf(Role::constant, copy_to(cell.on_device(), cell.tensor.device()));
  }
  return *grad;
}

NodeRef filled_like(Node& node, double scalar) {
  RunningBuilder builder(false);
  Attrs attrs;
  attrs.scalar = scalar;
  const Value like[] = {{&node, 0, &node.output.spec}};
  return NodeRef(builder.emit(ops::fill_like, like, attrs).node);
}

void sgd(std::span<Node* const> parameters, double learning_rate) {
  for (Node* p : parameters) {
    if (!p->has_grad) fail(ErrorKind::graph, "[sgd] a parameter has no gradient yet: call Backward(loss) first.", made_at(*p));
    if (p->output.grad && !(p->output.grad->output.spec == p->output.spec))
      fail(ErrorKind::shape, "[sgd] a parameter of shape ", p->output.spec.shape, " has a gradient of shape ",
           p->output.grad->output.spec.shape, ".", made_at(*p));
  }
  Attrs attrs;
  attrs.scalar = learning_rate;
  RunningBuilder builder(false);
  for (Node* p : parameters) {
    if (!p->output.grad) continue;
    const Value inputs[] = {{p, 0, &p->output.spec}, {p->output.grad.get(), 0, &p->output.grad->output.spec}};
    builder.emit(ops::sgd, inputs, attrs);
  }
}

}  // namespace edfcore
