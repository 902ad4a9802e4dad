// Records of the reductions and of their opposite: sum, mean, var, max, min, max_mask, sum_to,
// broadcast_to.
#include <algorithm>
#include <string_view>

#include "ops/kernel_cuda.h"
#include "ops/record.h"
#include "ops/reduce.h"

namespace edfcore {

EDF_KERNEL(sum)
EDF_KERNEL(mean)
EDF_KERNEL(var)
EDF_KERNEL(max)
EDF_KERNEL(min)
EDF_KERNEL(max_mask)
EDF_KERNEL(sum_to)
EDF_KERNEL(sum_to_sgd)
EDF_KERNEL(broadcast_to)

namespace ops {

namespace {

using Axes = bool[max_rank];  // by axis: is it reduced?

// Checks the axes asked for and writes them back non-negative and in order.
void resolve_axes(Inference& inf, Axes& reduced) {
  Attrs& attrs = inf.attrs;
  const Shape& x = inf.in[0].shape;
  const int rank = x.rank();
  for (int i = 0; i < rank; ++i) reduced[i] = attrs.n_ints == all_axes;
  for (int i = 0; i < attrs.n_ints; ++i) {
    const std::int64_t asked = attrs.ints[i], axis = asked < 0 ? asked + rank : asked;
    if (axis < 0 || axis >= rank)
      inf.shape_error("there is no axis ", asked, " in x of shape ", x, ", which has ", rank,
                      rank == 1 ? " axis." : " axes.");
    if (reduced[axis]) inf.shape_error("axis ", axis, " of x is given twice.");
    reduced[axis] = true;
  }
  attrs.n_ints = 0;
  for (int i = 0; i < rank; ++i)
    if (reduced[i]) attrs.ints[attrs.n_ints++] = i;
}

Shape reduced_shape(const Shape& x, const Axes& reduced, bool keepdims) {
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) {
    if (!reduced[i])
      shape.push_back(x[i]);
    else if (keepdims)
      shape.push_back(1);
  }
  return shape;
}

void infer_sum(Inference& inf) {
  need_floating(inf, 0, "x");
  Axes reduced = {};
  resolve_axes(inf, reduced);
  inf.out[0] = {inf.in[0].dtype, reduced_shape(inf.in[0].shape, reduced, inf.attrs.keepdims)};
}

void infer_var(Inference& inf) {
  if (!(inf.attrs.scalar >= 0)) inf.shape_error("ddof is ", inf.attrs.scalar, ": it must not be negative.");
  infer_sum(inf);
}

void need_nonempty(const Inference& inf, const Axes& reduced) {
  const Shape& x = inf.in[0].shape;
  for (int i = 0; i < x.rank(); ++i)
    if (reduced[i] && x[i] == 0)
      inf.shape_error("x has shape ", x, ": there is no ",
                      inf.op.name == std::string_view("min") ? "minimum" : "maximum", " over axis ", i,
                      ", which is empty.");
}

void infer_max(Inference& inf) {
  need_numeric(inf, 0, "x");
  Axes reduced = {};
  resolve_axes(inf, reduced);
  need_nonempty(inf, reduced);
  inf.out[0] = {inf.in[0].dtype, reduced_shape(inf.in[0].shape, reduced, inf.attrs.keepdims)};
}

void infer_max_mask(Inference& inf) {
  need_floating(inf, 0, "x");
  Axes reduced = {};
  resolve_axes(inf, reduced);
  need_nonempty(inf, reduced);
  inf.out[0] = inf.in[0];
}

bool broadcasts(const Shape& from, const Shape& to) {
  const int extra = to.rank() - from.rank();
  if (extra < 0) return false;
  for (int i = 0; i < from.rank(); ++i)
    if (from[i] != 1 && from[i] != to[i + extra]) return false;
  return true;
}

Shape asked_shape(const Inference& inf) {
  const Shape shape = shape_of(inf.attrs);
  for (std::int64_t n : shape)
    if (n < 0) inf.shape_error("shape ", shape, " has a negative axis.");
  return shape;
}

void infer_sum_to(Inference& inf) {
  need_floating(inf, 0, "x");
  const Shape &x = inf.in[0].shape, to = asked_shape(inf);
  if (!broadcasts(to, x)) inf.shape_error("x has shape ", x, ", to which ", to, " does not broadcast.");
  inf.out[0] = {inf.in[0].dtype, to};
}

void infer_sum_to_sgd(Inference& inf) {
  Inference summed{inf.op, inf.in.subspan(1), inf.attrs, inf.out};
  infer_sum_to(summed);
  if (!(inf.in[0] == inf.out[0]))
    inf.shape_error("p has shape ", inf.in[0].shape, " and the sum has shape ", inf.out[0].shape, ".");
}

void infer_broadcast_to(Inference& inf) {
  const Shape &x = inf.in[0].shape, to = asked_shape(inf);
  if (!broadcasts(x, to))
    inf.shape_error("x has shape ", x, ", which does not broadcast to ", to,
                    ": counted from the last, each axis of x must be 1 or equal.");
  inf.out[0] = {inf.in[0].dtype, to};
}

// The gradient of a reduction's output, repeated over the axes that it reduced.
Value spread(Builder& b, const VjpArgs& args) {
  const Shape& x = args.inputs[0].spec->shape;
  Axes reduced = {};
  for (int i = 0; i < args.attrs.n_ints; ++i) reduced[args.attrs.ints[i]] = true;
  const Value g = reshape_to(b, args.grads[0], reduced_shape(x, reduced, true));
  return g.spec->shape == x ? g : emit(b, broadcast_to, {g}, with_shape(x));
}

void vjp_sum(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = spread(b, args);
}

double terms_of(const VjpArgs& args) {
  double n = 1;
  for (int i = 0; i < args.attrs.n_ints; ++i)
    n *= static_cast<double>(args.inputs[0].spec->shape[static_cast<int>(args.attrs.ints[i])]);
  return n;
}

void vjp_mean(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, scale, {spread(b, args)}, with_scalar(1 / terms_of(args)));
}

// 2 g (x - mean(x)) / (n - ddof)
void vjp_var(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  const Value x = args.inputs[0];
  Attrs axes = args.attrs;
  axes.keepdims = true;
  axes.scalar = 0;
  const Value off = emit(b, sub, {x, emit(b, mean, {x}, axes)});
  const double terms = std::max(terms_of(args) - args.attrs.scalar, 0.0);
  args.result[0] = emit(b, scale, {emit(b, mul, {spread(b, args), off})}, with_scalar(2 / terms));
}

void vjp_max(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs axes = args.attrs;
  axes.keepdims = false;
  args.result[0] = emit(b, mul, {spread(b, args), emit(b, max_mask, {args.inputs[0]}, axes)});
}

void vjp_min(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs axes = args.attrs;
  axes.keepdims = false;
  const Value mask = emit(b, max_mask, {emit(b, neg, {args.inputs[0]})}, axes);
  args.result[0] = emit(b, mul, {spread(b, args), mask});
}

void vjp_sum_to(Builder& b, const VjpArgs& args) {
  if (args.wanted[0])
    args.result[0] = emit(b, broadcast_to, {args.grads[0]}, with_shape(args.inputs[0].spec->shape));
}

void vjp_broadcast_to(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = sum_to_shape(b, args.grads[0], args.inputs[0].spec->shape);
}

// On the CPU: partial results of 8 bytes.
std::int64_t scratch_reduce(std::span<const Spec> in, std::span<const Spec> out, const Attrs&,
                            DeviceType device) {
  const std::int64_t size = in[0].shape.size(), outputs = out[0].shape.size();
  if (device == DeviceType::cuda) return cuda::reduce_scratch(size, outputs);
  if (outputs == 0) return 0;
  const std::int64_t parts =
      std::min({size / reduce_part + 1, reduce_most_parts, reduce_most_partial / outputs});
  return parts > 1 ? parts * outputs * 8 : 0;
}

std::int64_t scratch_sum_to_sgd(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                                DeviceType device) {
  return scratch_reduce(in.subspan(1), out, attrs, device);
}

// A half is rounded before the parameter descends along it.
bool descends(std::span<const Spec> in, const Attrs&, DeviceType) { return !is_half(in[0].dtype); }

const Accumulation along_sum = {.descent = &sum_to_sgd, .descends = descends};

// What var accumulates takes four times as much.
std::int64_t scratch_var(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                         DeviceType device) {
  return 4 * scratch_reduce(in, out, attrs, device);
}

}  // namespace

const Op sum = {.name = "sum",
                .arity = 1,
                .infer = infer_sum,
                .cpu = EDF_CPU_KERNEL(sum_kernel),
                .cuda = EDF_CUDA_KERNEL(sum_kernel),
                .vjp = vjp_sum,
                .scratch = scratch_reduce,
                .autocast = Autocast::wide};

const Op mean = {.name = "mean",
                 .arity = 1,
                 .infer = infer_sum,
                 .cpu = EDF_CPU_KERNEL(mean_kernel),
                 .cuda = EDF_CUDA_KERNEL(mean_kernel),
                 .vjp = vjp_mean,
                 .scratch = scratch_reduce,
                 .autocast = Autocast::wide};

const Op var = {.name = "var",
                .arity = 1,
                .infer = infer_var,
                .cpu = EDF_CPU_KERNEL(var_kernel),
                .cuda = EDF_CUDA_KERNEL(var_kernel),
                .vjp = vjp_var,
                .scratch = scratch_var,
                .autocast = Autocast::wide};

const Op min = {.name = "min",
                .arity = 1,
                .infer = infer_max,
                .cpu = EDF_CPU_KERNEL(min_kernel),
                .cuda = EDF_CUDA_KERNEL(min_kernel),
                .vjp = vjp_min,
                .scratch = scratch_reduce};

const Op max = {.name = "max",
                .arity = 1,
                .infer = infer_max,
                .cpu = EDF_CPU_KERNEL(max_kernel),
                .cuda = EDF_CUDA_KERNEL(max_kernel),
                .vjp = vjp_max,
                .scratch = scratch_reduce};

const Op max_mask = {.name = "max_mask",
                     .arity = 1,
                     .infer = infer_max_mask,
                     .cpu = EDF_CPU_KERNEL(max_mask_kernel),
                     .cuda = EDF_CUDA_KERNEL(max_mask_kernel),
                     .flags = op_internal | op_no_grad};

const Op sum_to = {.name = "sum_to",
                   .arity = 1,
                   .infer = infer_sum_to,
                   .cpu = EDF_CPU_KERNEL(sum_to_kernel),
                   .cuda = EDF_CUDA_KERNEL(sum_to_kernel),
                   .vjp = vjp_sum_to,
                   .scratch = scratch_reduce,
                   .accumulates = &along_sum,
                   .flags = op_internal,
                   .formula = Formula::column_sum};

const Op sum_to_sgd = {.name = "sum_to_sgd",
                       .arity = 2,
                       .infer = infer_sum_to_sgd,
                       .cpu = EDF_CPU_KERNEL(sum_to_sgd_kernel),
                       .cuda = EDF_CUDA_KERNEL(sum_to_sgd_kernel),
                       .scratch = scratch_sum_to_sgd,
                       .flags = op_internal | op_mutates | op_no_grad,
                       .formula = Formula::column_descent};

const Op broadcast_to = {.name = "broadcast_to",
                         .arity = 1,
                         .infer = infer_broadcast_to,
                         .cpu = EDF_CPU_KERNEL(broadcast_to_kernel),
                         .cuda = EDF_CUDA_KERNEL(broadcast_to_kernel),
                         .vjp = vjp_broadcast_to,
                         .flags = op_any_dtype | op_uniform};

}  // namespace ops
}  // namespace edfcore
