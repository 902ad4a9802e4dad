// Gradients of fused consumers: kept apart from the producer's own, passed on the stable way, and shown on
// request as if nothing had been fused.
#include <type_traits>

#include "core/half.h"
#include "device/memory.h"
#include "graph/grad.h"
#include "graph/vjp.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

// The consumer's inputs, with `own` in the place of the producer.
Small<const Edge*> inputs_with(const Deferred& d, const Edge& own) {
  Small<const Edge*> inputs = pointers(d.inputs);
  inputs[static_cast<std::size_t>(d.input)] = &own;
  return inputs;
}

template <class T>
auto number(T x) {
  if constexpr (std::is_floating_point_v<T>)
    return x;
  else
    return static_cast<float>(x);
}

// now - before where they differ, so that an untouched infinity adds nothing. True when anything differs.
template <class T>
bool difference(const Tensor& now, const Tensor& before, const Tensor& delta) {
  const T* a = static_cast<const T*>(now.data());
  const T* b = static_cast<const T*>(before.data());
  T* d = static_cast<T*>(delta.data());
  bool any = false;
  for (std::int64_t i = 0; i < now.spec.shape.size(); ++i) {
    const auto x = number(a[i]), y = number(b[i]);
    const bool same = x == y || (x != x && y != y);
    d[i] = same ? T(decltype(x){0}) : T(x - y);
    any |= !same;
  }
  return any;
}

}  // namespace

// What the consumers would have added to this node's gradient without fusion, beside what it has of its own.
NodeRef total_grad(Node& node, Builder& builder) {
  Output total;
  total.grad = node.output.grad;
  for (const Deferred& d : node.deferred) {
    const Edge self{NodeRef(&node), 0};
    const Edge& then = d.inputs[static_cast<std::size_t>(d.input)];
    const Value grad[] = {value_of(*d.grad)};
    call_vjp(
        *d.op, inputs_with(d, then.node ? then : self), {}, grad, d.resolved, builder,
        [&](std::size_t i, NodeRef contribution) {
          if (static_cast<std::int32_t>(i) == d.input) add_to(total, std::move(contribution), builder);
        },
        Whom{d.input, false});
  }
  return total.grad;
}

void defer(Node& consumer) {
  const Fusion& fusion = *consumer.op->fuses;
  Deferred d{consumer.op,     consumer.ran,        fusion.input,
             consumer.inputs, consumer.resolved(), consumer.output.grad};
  Edge& own = d.inputs[static_cast<std::size_t>(fusion.input)];
  Node& producer = *std::exchange(own, {}).node;
  if (producer.value()) {  // the next Forward gives the producer another one
    own = {make_leaf(Role::constant, producer.value().on_device()), 0};
    own.node->requires_grad = true;
  }
  for (Edge& edge :
       d.inputs)  // labels may have been computed from the producer: their values are enough, no cycle
    if (edge.node && (edge.node->op || !is_floating(output_of(edge).spec.dtype)) && output_of(edge).value)
      edge = {make_leaf(Role::constant, output_of(edge).value.on_device()), 0};
  producer.deferred.push_back(std::move(d));
}

void pass_deferred(Node& node, Builder& builder) {
  if (node.assigned && !node.deferred.empty()) {  // the value is no longer what the consumer fused with
    RunningBuilder running(false);
    node.output.grad = total_grad(node, running);
    node.deferred.clear();
  }
  for (const Deferred& d : node.deferred) {
    const Small<const Edge*> inputs = inputs_with(d, node.inputs[0]);
    const Value grad[] = {value_of(*d.grad)};
    call_vjp(
        *d.into, inputs, {}, grad, d.resolved, builder,
        [&](std::size_t i, NodeRef contribution) {
          add_to(output_of(*inputs[i]), std::move(contribution), builder);
        },
        Whom{d.input, false});
  }
}

const Tensor& shown_grad(Node& node) {
  if (node.shown && node.shown->own == node.output.grad && node.shown->deferred == node.deferred.size())
    return node.shown->handed_out;
  absorb_shown(node);
  RunningBuilder running(false);
  Tensor handed_out = copy_to(total_grad(node, running)->value().on_device(), cpu_device);
  if (const DType dtype = shown_on_host(handed_out.spec.dtype); dtype != handed_out.spec.dtype)
    handed_out = in_dtype(handed_out, dtype);
  Tensor before = copy_to(handed_out, cpu_device);
  node.shown = std::make_unique<Shown>(
      Shown{std::move(handed_out), std::move(before), node.output.grad, node.deferred.size()});
  return node.shown->handed_out;
}

void absorb_shown(Node& node) {
  if (!node.shown) return;
  const std::unique_ptr<Shown> shown = std::move(node.shown);
  Tensor delta = allocate(shown->before.spec, cpu_device);
  const auto differ = [&](auto of) {
    return difference<decltype(of)>(shown->handed_out, shown->before, delta);
  };
  const DType dtype = delta.spec.dtype;
  if (dtype == DType::f64    ? differ(double{})
      : dtype == DType::bf16 ? differ(BFloat16{})
      : dtype == DType::f16  ? differ(Float16{})
                             : differ(float{}))
    accumulate_grad(node.output, make_leaf(Role::constant, copy_to(in_dtype(delta, node.output.spec.dtype),
                                                                   node.value().tensor.device())));
}

}  // namespace edfcore
