// Records of the ops that update a parameter in place.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(sgd)
EDF_KERNEL(momentum)
EDF_KERNEL(adam)
EDF_DECLARE_CUDA_MANY(sgd_many)
EDF_DECLARE_CUDA_MANY(momentum_many)
EDF_DECLARE_CUDA_MANY(adam_many)

namespace ops {

namespace {

// What an update keeps of half types is float32: small steps would not move it otherwise. Where it keeps
// something, its last input counts the steps.
void infer_update(Inference& inf, int inputs) {
  static const char* const names[] = {"p", "g", "m", "v", "h"};
  need_floating(inf, 0, "p");
  need_same_dtype(inf, 0, "p", 1, "g");
  const DType kept = widened(inf.in[0].dtype);
  const int last = static_cast<int>(inf.in.size()) - 1;
  if (last > 1 && !(inf.in[last] == Spec{DType::i64, {1}}))
    inf.shape_error("n has dtype ", dtype_name(inf.in[last].dtype), " and shape ", inf.in[last].shape,
                    ": it must be one int64.");
  for (int i = 2; i < last; ++i)
    if (const DType d = inf.in[i].dtype; d != kept)
      inf.dtype_error("p has dtype ", dtype_name(inf.in[0].dtype), " and ", names[i], " has dtype ",
                      dtype_name(d), ": it must be ", dtype_name(kept), "; ", how_to_convert);
  for (int i = 1; i < inputs; ++i) need_same_shape(inf, 0, "p", i, names[i]);
  inf.out[0] = inf.in[0];
}

void infer_sgd(Inference& inf) { infer_update(inf, 2); }
void infer_momentum(Inference& inf) { infer_update(inf, 3); }

// h holds three numbers, in the dtype of the moments.
void infer_adam(Inference& inf) {
  infer_update(inf, 4);
  if (!(inf.in[4].shape == Shape{3})) inf.shape_error("h has shape ", inf.in[4].shape, ": it must be (3,).");
}

}  // namespace

const Op sgd = {.name = "sgd",
                .arity = 2,
                .infer = infer_sgd,
                .cpu = EDF_CPU_KERNEL(sgd_kernel),
                .cuda = EDF_CUDA_KERNEL(sgd_kernel),
                .flags = op_elementwise | op_mutates | op_descends | op_no_grad,
                .cuda_many = EDF_CUDA_KERNEL(sgd_many)};

// Beside the parameter, m and n are updated in place.
const Op momentum = {.name = "momentum",
                     .arity = 4,
                     .infer = infer_momentum,
                     .cpu = EDF_CPU_KERNEL(momentum_kernel),
                     .cuda = EDF_CUDA_KERNEL(momentum_kernel),
                     .flags = op_internal | op_mutates | op_no_grad,
                     .cuda_many = EDF_CUDA_KERNEL(momentum_many)};

// Beside the parameter, m, v and n are updated in place:
//     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p -= scalar m / (sqrt(v) / scalar2 +
//     epsilon),
// where scalar = rate / (1 - beta1^t) and scalar2 = sqrt(1 - beta2^t) in step t.
const Op adam = {.name = "adam",
                 .arity = 6,
                 .infer = infer_adam,
                 .cpu = EDF_CPU_KERNEL(adam_kernel),
                 .cuda = EDF_CUDA_KERNEL(adam_kernel),
                 .flags = op_internal | op_mutates | op_no_grad,
                 .cuda_many = EDF_CUDA_KERNEL(adam_many)};

}  // namespace ops
}  // namespace edfcore
