// Record of cast, the op that converts between dtypes.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(cast)
EDF_KERNEL(autocast)

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

// The other inputs are there for their dtypes.
void infer_autocast(Inference& inf) {
  if (inf.in.empty()) inf.shape_error("there are no inputs: at least one is needed.");
  const DType from = inf.in[0].dtype;
  DType to = from;
  switch (static_cast<Autocast>(inf.attrs.ints[0])) {
    case Autocast::half:
      if (from == DType::f32 || is_half(from)) to = inf.attrs.dtype;
      break;
    case Autocast::wide:
      to = widened(from);
      break;
    default:  // two half types meet in float32, too
      for (const Spec& other : inf.in)
        if (is_half(from) && other.dtype != from && (is_half(other.dtype) || other.dtype == DType::f32))
          to = DType::f32;
  }
  inf.attrs.dtype = to;
  inf.out[0] = {to, inf.in[0].shape};
}

void vjp_autocast(Builder& b, const VjpArgs& args) {
  if (args.inputs[0].spec->dtype == args.attrs.dtype)
    args.result[0] = args.grads[0];
  else
    vjp_cast(b, args);
}

}  // namespace

const Op cast = {.name = "cast",
                 .arity = 1,
                 .infer = infer_cast,
                 .cpu = EDF_CPU_KERNEL(cast_kernel),
                 .cuda = EDF_CUDA_KERNEL(cast_kernel),
                 .vjp = vjp_cast,
                 .flags = op_elementwise | op_any_dtype | op_converts};

const Op autocast = {.name = "autocast",
                     .arity = variadic,
                     .infer = infer_autocast,
                     .cpu = EDF_CPU_KERNEL(autocast_kernel),
                     .cuda = EDF_CUDA_KERNEL(autocast_kernel),
                     .vjp = vjp_autocast,
                     .flags = op_internal | op_elementwise | op_any_dtype | op_converts,
                     .unread = ~1u};

}  // namespace ops
}  // namespace edfcore
