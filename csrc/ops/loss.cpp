// Records of the log loss, of probabilities and of scores. That of a softmax's output runs as that of its
// scores.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(log_loss)
EDF_KERNEL(log_loss_scores)
EDF_KERNEL(log_loss_scores_grad)

namespace ops {

namespace {

// x (..., C) and labels (...).
void need_labels(const Inference& inf, int input, const char* name, int labels) {
  need_index(inf, labels, "y");
  const Shape &x = inf.in[input].shape, &y = inf.in[labels].shape;
  bool fits = x.rank() > 0 && y.rank() == x.rank() - 1;
  for (int i = 0; fits && i < y.rank(); ++i) fits = x[i] == y[i];
  if (!fits)
    inf.shape_error(name, " has shape ", x, " and y has shape ", y, ": y must have the axes of ", name,
                    " without its last, one label for each row.");
}

void infer_log_loss(Inference& inf) {
  need_floating(inf, 0, "p");
  need_labels(inf, 0, "p", 1);
  inf.out[0] = {inf.in[0].dtype, inf.in[1].shape};
}

// -g / p[.., y] at the label, 0 elsewhere.
void vjp_log_loss(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  const Value g = args.grads[0], p = args.inputs[0], y = args.inputs[1];
  Attrs classes;
  classes.n_ints = 1;
  classes.ints[0] = p.spec->shape[-1];
  const Value at_label = emit(b, neg, {emit(b, div, {g, emit(b, take_along_last, {p, y})})});
  args.result[0] = emit(b, put_along_last, {at_label, y}, classes);
}

void infer_log_loss_scores(Inference& inf) {
  need_floating(inf, 0, "s");
  need_labels(inf, 0, "s", 1);
  inf.out[0] = {inf.in[0].dtype, inf.in[1].shape};
}

void vjp_log_loss_scores(Builder& b, const VjpArgs& args) {
  if (args.wanted[0])
    args.result[0] = emit(b, log_loss_scores_grad, {args.grads[0], args.inputs[0], args.inputs[1]});
}

void infer_log_loss_scores_grad(Inference& inf) {
  need_floating(inf, 1, "s");
  need_same_dtype(inf, 0, "g", 1, "s");
  need_labels(inf, 1, "s", 2);
  need_same_shape(inf, 0, "g", 2, "y");
  inf.out[0] = inf.in[1];
}

// r = g (p - onehot(y)) with p = softmax(s): to g goes <u, p> - u[.., y], to s what softmax passes on of g u.
void vjp_log_loss_scores_grad(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0] && !args.wanted[1]) return;
  const Value u = args.grads[0], g = args.inputs[0], s = args.inputs[1], y = args.inputs[2];
  const Value p = emit(b, softmax, {s});
  if (args.wanted[0]) {
    Attrs last;
    last.n_ints = 1;
    last.ints[0] = -1;
    const Value up = emit(b, sum, {emit(b, mul, {u, p})}, last);
    args.result[0] = emit(b, sub, {up, emit(b, take_along_last, {u, y})});
  }
  if (args.wanted[1]) {
    Shape column = g.spec->shape;
    column.push_back(1);
    args.result[1] = emit(b, softmax_grad, {emit(b, mul, {u, reshape_to(b, g, column)}), p});
  }
}

const Fusion of_softmax = {.producer = &softmax, .input = 0, .into = &log_loss_scores};

}  // namespace

const Op log_loss = {.name = "log_loss",
                     .arity = 2,
                     .infer = infer_log_loss,
                     .cpu = EDF_CPU_KERNEL(log_loss_kernel),
                     .cuda = EDF_CUDA_KERNEL(log_loss_kernel),
                     .vjp = vjp_log_loss,
                     .fuses = &of_softmax};

const Op log_loss_scores = {.name = "log_loss_scores",
                            .arity = 2,
                            .infer = infer_log_loss_scores,
                            .cpu = EDF_CPU_KERNEL(log_loss_scores_kernel),
                            .cuda = EDF_CUDA_KERNEL(log_loss_scores_kernel),
                            .vjp = vjp_log_loss_scores};

const Op log_loss_scores_grad = {.name = "log_loss_scores_grad",
                                 .arity = 3,
                                 .infer = infer_log_loss_scores_grad,
                                 .cpu = EDF_CPU_KERNEL(log_loss_scores_grad_kernel),
                                 .cuda = EDF_CUDA_KERNEL(log_loss_scores_grad_kernel),
                                 .vjp = vjp_log_loss_scores_grad,
                                 .inplace = 1,
                                 .flags = op_internal};

}  // namespace ops
}  // namespace edfcore
