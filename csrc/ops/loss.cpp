// Records of the log loss, of probabilities and of scores, for labels and for distributions over them. That
// of a softmax's output runs as that of its scores.
#include "ops/elementwise.h"
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(log_loss)
EDF_KERNEL(log_loss_scores)
EDF_KERNEL(log_loss_scores_grad)
EDF_KERNEL(log_loss_scores_both)
EDF_KERNEL(log_loss_soft)
EDF_KERNEL(log_loss_soft_grad)
EDF_KERNEL(log_loss_soft_scores)
EDF_KERNEL(log_loss_soft_scores_grad)
EDF_KERNEL(log_loss_soft_scores_both)

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

void infer_log_loss_scores_both(Inference& inf) {
  infer_log_loss_scores(inf);
  need_same_dtype(inf, 2, "g", 0, "s");
  need_same_shape(inf, 2, "g", 1, "y");
  inf.out[1] = inf.out[0];
  inf.out[0] = inf.in[0];
}

// x (..., C) and q (..., C).
void infer_soft(Inference& inf, const char* name) {
  need_floating(inf, 0, name);
  need_same_dtype(inf, 0, name, 1, "q");
  need_same_shape(inf, 0, name, 1, "q");
  const Shape& x = inf.in[0].shape;
  if (x.rank() == 0) inf.shape_error(name, " has shape ", x, ": its last axis must be that of the classes.");
  inf.out[0] = {inf.in[0].dtype, Shape({x.data(), static_cast<std::size_t>(x.rank() - 1)})};
}

void infer_log_loss_soft(Inference& inf) { infer_soft(inf, "p"); }
void infer_log_loss_soft_scores(Inference& inf) { infer_soft(inf, "s"); }

Value as_column(Builder& b, Value x) {
  Shape column = x.spec->shape;
  column.push_back(1);
  return emit(b, reshape, {x}, with_shape(column));
}

void vjp_log_loss_soft(Builder& b, const VjpArgs& args) {
  const Value g = args.grads[0], p = args.inputs[0], q = args.inputs[1];
  if (args.wanted[0]) args.result[0] = emit(b, log_loss_soft_grad, {g, p, q});
  if (args.wanted[1]) args.result[1] = emit(b, neg, {emit(b, mul, {as_column(b, g), emit(b, log, {p})})});
}

void infer_log_loss_soft_grad(Inference& inf) {
  need_floating(inf, 1, "p");
  inf.out[0] = inf.in[1];
}

// r = -g q / p
void vjp_log_loss_soft_grad(Builder& b, const VjpArgs& args) {
  const Value u = args.grads[0], g = args.inputs[0], p = args.inputs[1], q = args.inputs[2];
  const Value per_p = emit(b, neg, {emit(b, div, {u, p})});
  if (args.wanted[0]) args.result[0] = reshape_to(b, sum_last(b, emit(b, mul, {per_p, q})), g.spec->shape);
  if (!args.wanted[1] && !args.wanted[2]) return;
  const Value to_q = emit(b, mul, {per_p, as_column(b, g)});
  args.result[2] = to_q;
  if (args.wanted[1]) args.result[1] = emit(b, neg, {emit(b, div, {emit(b, mul, {to_q, q}), p})});
}

// With p = softmax(s): to s goes g (p sum(q) - q), to q goes -g ln p.
void vjp_log_loss_soft_scores(Builder& b, const VjpArgs& args) {
  const Value g = args.grads[0], s = args.inputs[0], q = args.inputs[1];
  if (args.wanted[0]) args.result[0] = emit(b, log_loss_soft_scores_grad, {g, s, q});
  if (args.wanted[1])
    args.result[1] = emit(b, neg, {emit(b, mul, {as_column(b, g), emit(b, log_softmax, {s})})});
}

void infer_log_loss_soft_scores_grad(Inference& inf) {
  Inference loss{inf.op, inf.in.subspan(1), inf.attrs, inf.out};
  infer_log_loss_soft_scores(loss);
  if (!(inf.in[0] == inf.out[0]))
    inf.shape_error("g has shape ", inf.in[0].shape, " and the loss has shape ", inf.out[0].shape,
                    ": they must be the same.");
  inf.out[0] = inf.in[1];
}

// r = g (p sum(q) - q) with p = softmax(s): to g goes <u, p> sum(q) - <u, q>, to s what softmax passes on of
// g sum(q) u, to q goes g (<u, p> - u).
void vjp_log_loss_soft_scores_grad(Builder& b, const VjpArgs& args) {
  const Value u = args.grads[0], s = args.inputs[1], q = args.inputs[2];
  const Value g = as_column(b, args.inputs[0]), p = emit(b, softmax, {s});
  const Value all = sum_last(b, q), up = sum_last(b, emit(b, mul, {u, p}));
  if (args.wanted[0]) {
    const Value to_g = emit(b, sub, {emit(b, mul, {up, all}), sum_last(b, emit(b, mul, {u, q}))});
    args.result[0] = reshape_to(b, to_g, args.inputs[0].spec->shape);
  }
  if (args.wanted[1]) args.result[1] = emit(b, softmax_grad, {emit(b, mul, {u, emit(b, mul, {g, all})}), p});
  if (args.wanted[2]) args.result[2] = emit(b, mul, {g, emit(b, sub, {up, u})});
}

void infer_log_loss_soft_scores_both(Inference& inf) {
  infer_log_loss_soft_scores(inf);
  if (!(inf.in[2] == inf.out[0]))
    inf.shape_error("g has shape ", inf.in[2].shape, " and the loss has shape ", inf.out[0].shape,
                    ": they must be the same.");
  inf.out[1] = inf.out[0];
  inf.out[0] = inf.in[0];
}

const Joining of_scores = {.grad = &log_loss_scores_grad, .into = &log_loss_scores_both};
const Joining of_soft_scores = {.grad = &log_loss_soft_scores_grad, .into = &log_loss_soft_scores_both};

const Fusion soft_of_softmax = {.producer = &softmax, .input = 0, .into = &log_loss_soft_scores};
const Fusion of_softmax = {.producer = &softmax, .input = 0, .into = &log_loss_scores};

}  // namespace

const Op log_loss = {.name = "log_loss",
                     .arity = 2,
                     .infer = infer_log_loss,
                     .cpu = EDF_CPU_KERNEL(log_loss_kernel),
                     .cuda = EDF_CUDA_KERNEL(log_loss_kernel),
                     .vjp = vjp_log_loss,
                     .fuses = &of_softmax,
                     .flags = op_checks | op_half_on_cuda,
                     .autocast = Autocast::wide,
                     .indices = 2};

const Op log_loss_scores = {.name = "log_loss_scores",
                            .arity = 2,
                            .infer = infer_log_loss_scores,
                            .cpu = EDF_CPU_KERNEL(log_loss_scores_kernel),
                            .cuda = EDF_CUDA_KERNEL(log_loss_scores_kernel),
                            .vjp = vjp_log_loss_scores,
                            .joins = &of_scores,
                            .flags = op_checks | op_ending | op_half_on_cuda,
                            .autocast = Autocast::wide,
                            .indices = 2,
                            .formula = Formula::log_loss_scores,
                            .most_columns = ending_columns};

const Op log_loss_scores_grad = {.name = "log_loss_scores_grad",
                                 .arity = 3,
                                 .infer = infer_log_loss_scores_grad,
                                 .cpu = EDF_CPU_KERNEL(log_loss_scores_grad_kernel),
                                 .cuda = EDF_CUDA_KERNEL(log_loss_scores_grad_kernel),
                                 .vjp = vjp_log_loss_scores_grad,
                                 .inplace = 1,
                                 .flags = op_internal | op_half_on_cuda};

// Not in place: of a long row the loss reads scores when the gradient has been begun.
const Op log_loss_scores_both = {.name = "log_loss_scores_both",
                                 .arity = 3,
                                 .infer = infer_log_loss_scores_both,
                                 .cpu = EDF_CPU_KERNEL(log_loss_scores_both_kernel),
                                 .cuda = EDF_CUDA_KERNEL(log_loss_scores_both_kernel),
                                 .flags = op_internal | op_checks | op_no_grad | op_ending | op_half_on_cuda,
                                 .outputs = 2,
                                 .formula = Formula::log_loss_scores_both,
                                 .most_columns = ending_columns};

const Op log_loss_soft = {.name = "log_loss_soft",
                          .arity = 2,
                          .infer = infer_log_loss_soft,
                          .cpu = EDF_CPU_KERNEL(log_loss_soft_kernel),
                          .cuda = EDF_CUDA_KERNEL(log_loss_soft_kernel),
                          .vjp = vjp_log_loss_soft,
                          .fuses = &soft_of_softmax,
                          .flags = op_half_on_cuda,
                          .autocast = Autocast::wide};

const Op log_loss_soft_grad = {.name = "log_loss_soft_grad",
                               .arity = 3,
                               .infer = infer_log_loss_soft_grad,
                               .cpu = EDF_CPU_KERNEL(log_loss_soft_grad_kernel),
                               .cuda = EDF_CUDA_KERNEL(log_loss_soft_grad_kernel),
                               .vjp = vjp_log_loss_soft_grad,
                               .inplace = 1,
                               .flags = op_internal | op_half_on_cuda};

const Op log_loss_soft_scores = {.name = "log_loss_soft_scores",
                                 .arity = 2,
                                 .infer = infer_log_loss_soft_scores,
                                 .cpu = EDF_CPU_KERNEL(log_loss_soft_scores_kernel),
                                 .cuda = EDF_CUDA_KERNEL(log_loss_soft_scores_kernel),
                                 .vjp = vjp_log_loss_soft_scores,
                                 .joins = &of_soft_scores,
                                 .flags = op_half_on_cuda,
                                 .autocast = Autocast::wide};

const Op log_loss_soft_scores_grad = {.name = "log_loss_soft_scores_grad",
                                      .arity = 3,
                                      .infer = infer_log_loss_soft_scores_grad,
                                      .cpu = EDF_CPU_KERNEL(log_loss_soft_scores_grad_kernel),
                                      .cuda = EDF_CUDA_KERNEL(log_loss_soft_scores_grad_kernel),
                                      .vjp = vjp_log_loss_soft_scores_grad,
                                      .inplace = 1,
                                      .flags = op_internal | op_half_on_cuda};

const Op log_loss_soft_scores_both = {.name = "log_loss_soft_scores_both",
                                      .arity = 3,
                                      .infer = infer_log_loss_soft_scores_both,
                                      .cpu = EDF_CPU_KERNEL(log_loss_soft_scores_both_kernel),
                                      .cuda = EDF_CUDA_KERNEL(log_loss_soft_scores_both_kernel),
                                      .flags = op_internal | op_no_grad | op_half_on_cuda,
                                      .outputs = 2};

}  // namespace ops
}  // namespace edfcore
