// Calling one op's vjp and adding up what it gives: shared by the files of the reverse walk, and by them
// alone.
#pragma once

#include "core/small.h"
#include "graph/node.h"
#include "graph/run.h"

namespace edfcore {

// Runs what it is given at once. Without `record` the result forgets what it was made from.
class RunningBuilder final : public Builder {
 public:
  explicit RunningBuilder(bool record) : record_(record) {}
  Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) override;

 private:
  bool record_;
  std::vector<NodeRef>
      made_;  // a Value is a bare pointer: everything lives until the vjp's results are taken
};

inline Value value_of(Node& node, std::int32_t index = 0) { return {&node, index, &node.out(index).spec}; }
inline Value value_of(const Edge& edge) { return edge.node ? value_of(*edge.node, edge.index) : Value{}; }
inline Output& output_of(const Edge& edge) { return edge.node->out(edge.index); }

Edges edges_of(std::span<const Value> values);
Small<const Edge*> pointers(const Edges& edges);

// Adds to a gradient, or makes it the first contribution.
void add_to(Output& output, NodeRef contribution, Builder& builder);

// Which inputs a vjp is called for: all that require a gradient, or of these only one, or all but one.
struct Whom {
  std::int32_t input = -1;
  bool others = true;
  bool operator()(std::size_t i) const { return (static_cast<std::int32_t>(i) == input) != others; }
};

// Calls a vjp; deliver(i, node) receives each contribution that is wanted.
template <class Deliver>
void call_vjp(const Op& op, std::span<const Edge* const> inputs, std::span<const Value> outputs,
              std::span<const Value> grads, const Attrs& attrs, Builder& builder, const Deliver& deliver,
              Whom whom = {}) {
  Small<Value> in(inputs.size()), result(inputs.size());
  Small<bool> wanted(inputs.size());
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    in[i] = value_of(*inputs[i]);
    wanted[i] = inputs[i]->node && inputs[i]->node->requires_grad && whom(i);
    any |= wanted[i];
  }
  if (!any) return;
  if (!op.vjp) fail(ErrorKind::graph, "[", op.name, "] has no gradient.");
  op.vjp(builder, {in, outputs, grads, attrs, wanted, result});
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (wanted[i] && result[i]) deliver(i, NodeRef(result[i].node));
}

// One node's part of a backward pass, with what it emits going to `builder`.
void step(Node& node, Builder& builder);

// deferred.cpp: gradients of a consumer that fused with this node, on their way past it.
void defer(Node& consumer);
void pass_deferred(Node& node, Builder& builder);
NodeRef total_grad(Node& node, Builder& builder);  // as if nothing had been fused

}  // namespace edfcore
