// Records of softmax and log_softmax over the last axis, with their derivatives.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(softmax)
EDF_KERNEL(log_softmax)
EDF_KERNEL(softmax_grad)
EDF_KERNEL(log_softmax_grad)

namespace ops {

namespace {

void infer_softmax(Inference& inf) {
  need_floating(inf, 0, "x");
  if (inf.in[0].shape.rank() == 0) inf.shape_error("x has shape (): it must have a last axis, the classes.");
  inf.out[0] = inf.in[0];
}

void infer_softmax_grad(Inference& inf) {
  need_same_dtype(inf, 0, "g", 1, "y");
  need_same_shape(inf, 0, "g", 1, "y");
  infer_softmax(inf);
}

template <const Op& Grad>
void vjp_from_output(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, Grad, {args.grads[0], args.outputs[0]});
}

// r = p (g - <g, p>): to g goes p (u - <u, p>), to p goes u (g - <g, p>) - g <u, p>.
void vjp_softmax_grad(Builder& b, const VjpArgs& args) {
  const Value u = args.grads[0], g = args.inputs[0], p = args.inputs[1];
  if (args.wanted[0]) args.result[0] = emit(b, softmax_grad, {u, p});
  if (!args.wanted[1]) return;
  const Value gp = sum_last(b, emit(b, mul, {g, p})), up = sum_last(b, emit(b, mul, {u, p}));
  args.result[1] = emit(b, sub, {emit(b, mul, {u, emit(b, sub, {g, gp})}), emit(b, mul, {g, up})});
}

// r = g - exp(l) sum(g): to g goes u - <u, exp(l)>, to l goes -u exp(l) sum(g).
void vjp_log_softmax_grad(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0] && !args.wanted[1]) return;
  const Value u = args.grads[0], g = args.inputs[0], l = args.inputs[1];
  const Value up = emit(b, mul, {u, emit(b, exp, {l})});
  if (args.wanted[0]) args.result[0] = emit(b, sub, {u, sum_last(b, up)});
  if (args.wanted[1]) args.result[1] = emit(b, neg, {emit(b, mul, {up, sum_last(b, g)})});
}

}  // namespace

const Op softmax = {.name = "softmax",
                    .arity = 1,
                    .infer = infer_softmax,
                    .cpu = EDF_CPU_KERNEL(softmax_kernel),
                    .cuda = EDF_CUDA_KERNEL(softmax_kernel),
                    .vjp = vjp_from_output<softmax_grad>,
                    .inplace = 0,
                    .flags = op_producer | op_half_on_cuda,
                    .autocast = Autocast::wide};

const Op log_softmax = {.name = "log_softmax",
                        .arity = 1,
                        .infer = infer_softmax,
                        .cpu = EDF_CPU_KERNEL(log_softmax_kernel),
                        .cuda = EDF_CUDA_KERNEL(log_softmax_kernel),
                        .vjp = vjp_from_output<log_softmax_grad>,
                        .inplace = 0,
                        .flags = op_half_on_cuda,
                        .autocast = Autocast::wide};

const Op softmax_grad = {.name = "softmax_grad",
                         .arity = 2,
                         .infer = infer_softmax_grad,
                         .cpu = EDF_CPU_KERNEL(softmax_grad_kernel),
                         .cuda = EDF_CUDA_KERNEL(softmax_grad_kernel),
                         .vjp = vjp_softmax_grad,
                         .inplace = 0,
                         .flags = op_internal | op_half_on_cuda};

const Op log_softmax_grad = {.name = "log_softmax_grad",
                             .arity = 2,
                             .infer = infer_softmax_grad,
                             .cpu = EDF_CPU_KERNEL(log_softmax_grad_kernel),
                             .cuda = EDF_CUDA_KERNEL(log_softmax_grad_kernel),
                             .vjp = vjp_log_softmax_grad,
                             .inplace = 0,
                             .flags = op_internal | op_half_on_cuda};

}  // namespace ops
}  // namespace edfcore
