// Records of the ops of two operands, which broadcast as NumPy does: arithmetic, powers, maximum and minimum.
#include "ops/binary.h"

#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(add)
EDF_KERNEL(sub)
EDF_KERNEL(mul)
EDF_KERNEL(div)
EDF_KERNEL(pow)
EDF_KERNEL(pow_partial)
EDF_KERNEL(maximum)
EDF_KERNEL(minimum)
EDF_KERNEL(greater_share)

namespace ops {

namespace {

void infer_broadcast(Inference& inf) {
  inf.out[0] = {inf.in[0].dtype, broadcast_shape(inf, "a", inf.in[0].shape, "b", inf.in[1].shape)};
}

void infer_arithmetic(Inference& inf) {
  need_same_dtype(inf, 0, "a", 1, "b");
  need_numeric(inf, 0, "a");
  infer_broadcast(inf);
}

void infer_floating(Inference& inf) {
  need_same_dtype(inf, 0, "a", 1, "b");
  need_floating(inf, 0, "a");
  infer_broadcast(inf);
}

Value for_input(Builder& b, const VjpArgs& args, int input, Value g) {
  return sum_to_shape(b, g, args.inputs[input].spec->shape);
}

void vjp_add(Builder& b, const VjpArgs& args) {
  for (int i = 0; i < 2; ++i)
    if (args.wanted[i]) args.result[i] = for_input(b, args, i, args.grads[0]);
}

void vjp_sub(Builder& b, const VjpArgs& args) {
  const Value g = args.grads[0];
  if (args.wanted[0]) args.result[0] = for_input(b, args, 0, g);
  if (args.wanted[1]) args.result[1] = emit(b, neg, {for_input(b, args, 1, g)});
}

void vjp_mul(Builder& b, const VjpArgs& args) {
  for (int i = 0; i < 2; ++i)
    if (args.wanted[i])
      args.result[i] = for_input(b, args, i, emit(b, mul, {args.grads[0], args.inputs[1 - i]}));
}

// y = p / q: p gets g / q, q gets -(g / q) y.
void vjp_div(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0] && !args.wanted[1]) return;
  const Value ratio = emit(b, div, {args.grads[0], args.inputs[1]});
  if (args.wanted[0]) args.result[0] = for_input(b, args, 0, ratio);
  if (args.wanted[1])
    args.result[1] = emit(b, neg, {for_input(b, args, 1, emit(b, mul, {ratio, args.outputs[0]}))});
}

// (g, a, b): a and b broadcast to the shape of g.
void infer_partial(Inference& inf) {
  need_floating(inf, 0, "g");
  need_same_dtype(inf, 0, "g", 1, "a");
  need_same_dtype(inf, 0, "g", 2, "b");
  inf.out[0] = inf.in[0];
}

void infer_pow_partial(Inference& inf) {
  infer_partial(inf);
  if (inf.attrs.ints[1] > max_pow_order)
    fail(ErrorKind::graph, "[", inf.op.name, "] a power can be differentiated ", max_pow_order,
         " times to its exponent, and no more.");
}

// g times the derivative of a^b taken `to_a` times to a and `to_b` times to b.
Value pow_derivative(Builder& b, Value g, std::span<const Value> operands, std::int64_t to_a,
                     std::int64_t to_b) {
  const std::int64_t orders[] = {to_a, to_b};
  return emit(b, pow_partial, {g, operands[0], operands[1]}, with_ints(orders));
}

void vjp_pow(Builder& b, const VjpArgs& args) {
  for (int i = 0; i < 2; ++i)
    if (args.wanted[i])
      args.result[i] = for_input(b, args, i, pow_derivative(b, args.grads[0], args.inputs, 1 - i, i));
}

void vjp_pow_partial(Builder& b, const VjpArgs& args) {
  const Value u = args.grads[0];
  const std::int64_t to_a = args.attrs.ints[0], to_b = args.attrs.ints[1];
  const auto operands = args.inputs.subspan(1);
  if (args.wanted[0]) args.result[0] = pow_derivative(b, u, operands, to_a, to_b);
  if (!args.wanted[1] && !args.wanted[2]) return;
  const Value both = emit(b, mul, {u, args.inputs[0]});
  for (int i = 0; i < 2; ++i)
    if (args.wanted[1 + i])
      args.result[1 + i] =
          for_input(b, args, 1 + i, pow_derivative(b, both, operands, to_a + 1 - i, to_b + i));
}

// Each operand gets the gradient where it is the greater of the two, or the smaller.
void vjp_extremum(Builder& b, const VjpArgs& args, bool greater) {
  for (int i = 0; i < 2; ++i) {
    if (!args.wanted[i]) continue;
    const Value own = args.inputs[i], other = args.inputs[1 - i];
    const Value share = emit(b, greater_share, {args.grads[0], greater ? own : other, greater ? other : own});
    args.result[i] = for_input(b, args, i, share);
  }
}
void vjp_maximum(Builder& b, const VjpArgs& args) { vjp_extremum(b, args, true); }
void vjp_minimum(Builder& b, const VjpArgs& args) { vjp_extremum(b, args, false); }

// Linear in g; constant in a and b but where they are equal.
void vjp_greater_share(Builder& b, const VjpArgs& args) {
  if (args.wanted[0])
    args.result[0] = emit(b, greater_share, {args.grads[0], args.inputs[1], args.inputs[2]});
}

}  // namespace

#define EDF_DEFINE_BINARY(op, check, more, cast)                                      \
  const Op op = {.name = #op,                                                         \
                 .arity = 2,                                                          \
                 .infer = check,                                                      \
                 .cpu = EDF_CPU_KERNEL(op##_kernel),                                  \
                 .cuda = EDF_CUDA_KERNEL(op##_kernel),                                \
                 .vjp = vjp_##op,                                                     \
                 .inplace = 0,                                                        \
                 .flags = op_elementwise | op_takes_numbers | op_half_on_cuda | more, \
                 .autocast = Autocast::cast,                                          \
                 EDF_CHAINED(op)};
EDF_DEFINE_BINARY(add, infer_arithmetic, op_sums, widest)
EDF_DEFINE_BINARY(sub, infer_arithmetic, 0, widest)
EDF_DEFINE_BINARY(mul, infer_arithmetic, 0, widest)
EDF_DEFINE_BINARY(div, infer_floating, 0, widest)
EDF_DEFINE_BINARY(pow, infer_floating, 0, wide)
EDF_DEFINE_BINARY(maximum, infer_arithmetic, 0, widest)
EDF_DEFINE_BINARY(minimum, infer_arithmetic, 0, widest)
#undef EDF_DEFINE_BINARY

const Op pow_partial = {.name = "pow_partial",
                        .arity = 3,
                        .infer = infer_pow_partial,
                        .cpu = EDF_CPU_KERNEL(pow_partial_kernel),
                        .cuda = EDF_CUDA_KERNEL(pow_partial_kernel),
                        .vjp = vjp_pow_partial,
                        .inplace = 0,
                        .flags = op_elementwise | op_internal};

const Op greater_share = {.name = "greater_share",
                          .arity = 3,
                          .infer = infer_partial,
                          .cpu = EDF_CPU_KERNEL(greater_share_kernel),
                          .cuda = EDF_CUDA_KERNEL(greater_share_kernel),
                          .vjp = vjp_greater_share,
                          .inplace = 0,
                          .flags = op_elementwise | op_internal,
                          EDF_CHAINED(greater_share)};

}  // namespace ops
}  // namespace edfcore
