// Record of argmax: where along an axis the maximum stands.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(argmax)

namespace ops {

namespace {

void infer_argmax(Inference& inf) {
  need_numeric(inf, 0, "x");
  const Shape& x = inf.in[0].shape;
  const std::int64_t asked = inf.attrs.ints[0], axis = asked < 0 ? asked + x.rank() : asked;
  if (axis < 0 || axis >= x.rank()) inf.shape_error("there is no axis ", asked, " in x of shape ", x, ".");
  if (x[static_cast<int>(axis)] == 0)
    inf.shape_error("x has shape ", x, ": there is no maximum over axis ", axis, ", which is empty.");
  inf.attrs.ints[0] = axis;
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != axis)
      shape.push_back(x[i]);
    else if (inf.attrs.keepdims)
      shape.push_back(1);
  }
  inf.out[0] = {DType::i64, shape};
}

}  // namespace

const Op argmax = {.name = "argmax",
                   .arity = 1,
                   .infer = infer_argmax,
                   .cpu = EDF_CPU_KERNEL(argmax_kernel),
                   .cuda = EDF_CUDA_KERNEL(argmax_kernel),
                   .flags = op_no_grad};

}  // namespace ops
}  // namespace edfcore
