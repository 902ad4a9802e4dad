// Records of where, which takes every element from one of two operands, and of its gradient.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(where)
EDF_KERNEL(where_grad)

namespace ops {

namespace {

void need_condition(const Inference& inf, int input) {
  const DType d = inf.in[input].dtype;
  if (is_index(d) || d == DType::b1) return;
  inf.dtype_error("condition has dtype ", dtype_name(d), ": it must be bool, uint8, int32 or int64; ",
                  how_to_convert);
}

void infer_where(Inference& inf) {
  need_condition(inf, 0);
  need_same_dtype(inf, 1, "a", 2, "b");
  need_numeric(inf, 1, "a");
  const Shape shape = broadcast_shape(inf, "a", inf.in[1].shape, "b", inf.in[2].shape);
  inf.out[0] = {inf.in[1].dtype, broadcast_shape(inf, "condition", inf.in[0].shape, "a with b", shape)};
}

// The operand that is taken where the condition holds is side 1, the other one side 0.
Value side(Builder& b, Value g, Value condition, std::int64_t which) {
  const std::int64_t ints[] = {which};
  return emit(b, where_grad, {g, condition}, with_ints(ints));
}

void vjp_where(Builder& b, const VjpArgs& args) {
  for (int i = 1; i < 3; ++i)
    if (args.wanted[i])
      args.result[i] =
          sum_to_shape(b, side(b, args.grads[0], args.inputs[0], 2 - i), args.inputs[i].spec->shape);
}

// The condition broadcasts to the shape of g.
void infer_where_grad(Inference& inf) {
  need_floating(inf, 0, "g");
  need_condition(inf, 1);
  inf.out[0] = inf.in[0];
}

void vjp_where_grad(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = side(b, args.grads[0], args.inputs[1], args.attrs.ints[0]);
}

}  // namespace

const Op where = {.name = "where",
                  .arity = 3,
                  .infer = infer_where,
                  .cpu = EDF_CPU_KERNEL(where_kernel),
                  .cuda = EDF_CUDA_KERNEL(where_kernel),
                  .vjp = vjp_where,
                  .inplace = 1,
                  .flags = op_any_dtype | op_elementwise | op_takes_numbers,
                  .numbers_from = 1,
                  .autocast = Autocast::widest,
                  .indices = 1};

const Op where_grad = {.name = "where_grad",
                       .arity = 2,
                       .infer = infer_where_grad,
                       .cpu = EDF_CPU_KERNEL(where_grad_kernel),
                       .cuda = EDF_CUDA_KERNEL(where_grad_kernel),
                       .vjp = vjp_where_grad,
                       .inplace = 0,
                       .flags = op_elementwise | op_internal};

}  // namespace ops
}  // namespace edfcore
