// Records of the ops that update a parameter in place.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(sgd)

namespace ops {

namespace {

void infer_sgd(Inference& inf) {
  need_floating(inf, 0, "p");
  need_same_dtype(inf, 0, "p", 1, "g");
  need_same_shape(inf, 0, "p", 1, "g");
  inf.out[0] = inf.in[0];
}

}  // namespace

const Op sgd = {.name = "sgd",
                .arity = 2,
                .infer = infer_sgd,
                .cpu = EDF_CPU_KERNEL(sgd_kernel),
                .cuda = EDF_CUDA_KERNEL(sgd_kernel),
                .flags = op_elementwise | op_mutates | op_no_grad};

}  // namespace ops
}  // namespace edfcore
