// The reverse walk: vjps emit ops, and what they emit is run by the same `run` as everything else.
#pragma once

#include <span>

#include "graph/node.h"
#include "graph/rule.h"

namespace edfcore {

// One node's part of a backward pass: from the gradient of its outputs to that of its inputs, which
// accumulate. Nothing happens where the gradient is zero. With `record`, the emitted nodes stay on the tape,
// so that gradients have gradients.
void backward_step(Node& node, bool record = false);

// The reverse walk over everything that `loss` was computed from, latest node first. Leaves accumulate over
// calls; the gradients of computed nodes are dropped when they have been passed on. Null seed: ones; the loss
// must then have one element, or a graph error is thrown.
void backward(Node& loss, NodeRef seed, bool record);

// Adds to the gradient of an output, whose dtype and shape the contribution has.
void accumulate_grad(Output& output, NodeRef contribution);

// Gives the node's gradient memory of its own, zeros if there was none. For handing it out.
Node& own_grad(Node& node);

// The gradient of a node with deferred parts, as if nothing had been fused: host memory that may be handed
// out. What is written there counts as added to the node's own gradient, from the next look or step on.
const Tensor& shown_grad(Node& node);
void absorb_shown(Node& node);

// Zero, nothing deferred, nothing shown.
void zero_grad(Node& node);

// A leaf like the node's value, every element the same.
NodeRef filled_like(Node& node, double scalar);
NodeRef filled_like(Node& node, double scalar, Builder& builder);

// What Backward sets the gradient of a loss of this shape to: 1/nBatch. Throws a graph error when there are
// no examples.
double share_of_batch(std::span<const std::int64_t> shape);
double share_of_batch(const Shape& shape);
void seed_loss(Node& loss, Builder& builder);

// Sets the gradient of the loss, and takes all nodes' backward steps, the last one's first.
void walk_back(std::span<const NodeRef> nodes, Node& loss);

// Updates every parameter. Checks all before it touches one.
void update(std::span<Node* const> parameters, const Rule& rule);

// One parameter's update; `beside` is what the rule's op reads beside the parameter and its gradient.
void emit_update(const Op& op, Node& parameter, Node& grad, std::span<const NodeRef> beside, Scalars scalars,
                 Builder& builder);

}  // namespace edfcore
