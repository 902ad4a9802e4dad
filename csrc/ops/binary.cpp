// Records of add, sub, mul and div, which broadcast as NumPy does.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(add)
EDF_KERNEL(sub)
EDF_KERNEL(mul)
EDF_KERNEL(div)

namespace ops {

namespace {

void infer_broadcast(Inference& inf) {
  const Shape &a = inf.in[0].shape, &b = inf.in[1].shape;
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  Shape shape;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const std::int64_t m = ia < 0 ? 1 : a[ia], n = ib < 0 ? 1 : b[ib];
    if (m != n && m != 1 && n != 1)
      inf.shape_error("a has shape ", a, " and b has shape ", b,
                      ": counted from the last, their axes must be equal, or one of them 1.");
    shape.push_back(m == 1 ? n : m);
  }
  inf.out[0] = {inf.in[0].dtype, shape};
}

void infer_arithmetic(Inference& inf) {
  need_same_dtype(inf, 0, "a", 1, "b");
  need_numeric(inf, 0, "a");
  infer_broadcast(inf);
}

void infer_div(Inference& inf) {
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

}  // namespace

#define EDF_DEFINE_BINARY(op, check)                   \
  const Op op = {.name = #op,                          \
                 .arity = 2,                           \
                 .infer = check,                       \
                 .cpu = EDF_CPU_KERNEL(op##_kernel),   \
                 .cuda = EDF_CUDA_KERNEL(op##_kernel), \
                 .vjp = vjp_##op,                      \
                 .inplace = 0,                         \
                 .flags = op_elementwise | op_takes_numbers};
EDF_DEFINE_BINARY(add, infer_arithmetic)
EDF_DEFINE_BINARY(sub, infer_arithmetic)
EDF_DEFINE_BINARY(mul, infer_arithmetic)
EDF_DEFINE_BINARY(div, infer_div)
#undef EDF_DEFINE_BINARY

}  // namespace ops
}  // namespace edfcore
