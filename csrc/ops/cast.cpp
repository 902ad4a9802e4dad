// Record of cast, the op that converts between dtypes.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(cast)

namespace ops {

namespace {

void infer_cast(Inference& inf) { inf.out[0] = {inf.attrs.dtype, inf.in[0].shape}; }

// Integers carry no gradient, on either side.
void vjp_cast(Builder& b, const VjpArgs& args) {
  const DType from = args.inputs[0].spec->dtype;
  if (!args.wanted[0] || !is_floating(from) || !is_floating(args.attrs.dtype)) return;
  Attrs back;
  back.dtype = from;
  args.result[0] = emit(b, cast, {args.grads[0]}, back);
}

}  // namespace

const Op cast = {.name = "cast",
                 .arity = 1,
                 .infer = infer_cast,
                 .cpu = EDF_CPU_KERNEL(cast_kernel),
                 .cuda = EDF_CUDA_KERNEL(cast_kernel),
                 .vjp = vjp_cast,
                 .flags = op_elementwise | op_any_dtype};

}  // namespace ops
}  // namespace edfcore
