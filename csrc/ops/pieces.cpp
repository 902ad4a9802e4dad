// Records of the ops that cut a tensor along one axis and put tensors together: slice, slice_grad, concat,
// stack.
#include <algorithm>

#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(slice)
EDF_KERNEL(slice_grad)
EDF_KERNEL(concat)
EDF_KERNEL(stack)

namespace ops {

namespace {

// Writes the axis asked for back as one of 0 .. rank - 1.
int resolve_axis(Inference& inf, int rank, const char* what) {
  const std::int64_t asked = inf.attrs.ints[0], axis = asked < 0 ? asked + rank : asked;
  if (axis < 0 || axis >= rank)
    inf.shape_error("there is no axis ", asked, " in ", what, " of shape ", inf.in[0].shape, ".");
  inf.attrs.ints[0] = axis;
  return static_cast<int>(axis);
}

Attrs slice_attrs(std::int64_t axis, std::int64_t start, std::int64_t stop) {
  return with_ints(std::initializer_list<std::int64_t>{axis, start, stop, 1});
}

// Bounds count from the end where they are negative, and stop at the ends of the axis, as in NumPy.
void infer_slice(Inference& inf) {
  const Shape& x = inf.in[0].shape;
  const int axis = resolve_axis(inf, x.rank(), "x");
  std::int64_t &start = inf.attrs.ints[1], &stop = inf.attrs.ints[2], step = inf.attrs.ints[3];
  if (step < 1) inf.shape_error("the step is ", step, ": it must be at least 1.");
  const auto within = [n = x[axis]](std::int64_t i) {
    return std::clamp(i < 0 ? i + n : i, std::int64_t{0}, n);
  };
  start = within(start);
  stop = std::max(start, within(stop));
  Shape shape = x;
  shape[axis] = stop > start ? (stop - start - 1) / step + 1 : 0;
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_slice(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs attrs = args.attrs;
  attrs.ints[4] = args.inputs[0].spec->shape[static_cast<int>(attrs.ints[0])];
  attrs.n_ints = 5;
  args.result[0] = emit(b, slice_grad, {args.grads[0]}, attrs);
}

void infer_slice_grad(Inference& inf) {
  need_floating(inf, 0, "g");
  inf.out[0] = inf.in[0];
  inf.out[0].shape[static_cast<int>(inf.attrs.ints[0])] = inf.attrs.ints[4];
}

void vjp_slice_grad(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs attrs = args.attrs;
  attrs.n_ints = 4;
  args.result[0] = emit(b, slice, {args.grads[0]}, attrs);
}

// Inputs of one dtype, and of one shape but for axis `except`.
void need_alike(const Inference& inf, int except) {
  const Spec& first = inf.in[0];
  for (std::size_t i = 1; i < inf.in.size(); ++i) {
    const Spec& x = inf.in[i];
    if (x.dtype != first.dtype)
      inf.dtype_error("input 0 has dtype ", dtype_name(first.dtype), " and input ", i, " has dtype ",
                      dtype_name(x.dtype), ": they must be the same; ", how_to_convert);
    bool fits = x.shape.rank() == first.shape.rank();
    for (int axis = 0; fits && axis < x.shape.rank(); ++axis)
      fits = axis == except || x.shape[axis] == first.shape[axis];
    if (fits) continue;
    if (except < 0)
      inf.shape_error("input 0 has shape ", first.shape, " and input ", i, " has shape ", x.shape,
                      ": they must be the same.");
    inf.shape_error("input 0 has shape ", first.shape, " and input ", i, " has shape ", x.shape,
                    ": they must be the same but for axis ", except, ".");
  }
}

void need_inputs(const Inference& inf) {
  if (inf.in.empty()) inf.shape_error("there are no inputs: at least one is needed.");
}

void infer_concat(Inference& inf) {
  need_inputs(inf);
  const int axis = resolve_axis(inf, inf.in[0].shape.rank(), "input 0");
  need_alike(inf, axis);
  Shape shape = inf.in[0].shape;
  for (const Spec& x : inf.in.subspan(1)) shape[axis] += x.shape[axis];
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_concat(Builder& b, const VjpArgs& args) {
  const std::int64_t axis = args.attrs.ints[0];
  std::int64_t start = 0;
  for (std::size_t i = 0; i < args.inputs.size(); ++i) {
    const std::int64_t stop = start + args.inputs[i].spec->shape[static_cast<int>(axis)];
    if (args.wanted[i]) args.result[i] = emit(b, slice, {args.grads[0]}, slice_attrs(axis, start, stop));
    start = stop;
  }
}

void infer_stack(Inference& inf) {
  need_inputs(inf);
  const Shape& x = inf.in[0].shape;
  if (x.rank() == max_rank)
    inf.shape_error("input 0 has shape ", x, ": a tensor has at most ", max_rank, " axes.");
  const int axis = resolve_axis(inf, x.rank() + 1, "a stack of tensors");
  need_alike(inf, -1);
  Shape shape;
  for (int i = 0; i <= x.rank(); ++i)
    shape.push_back(i == axis ? static_cast<std::int64_t>(inf.in.size()) : x[i < axis ? i : i - 1]);
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_stack(Builder& b, const VjpArgs& args) {
  for (std::size_t i = 0; i < args.inputs.size(); ++i) {
    if (!args.wanted[i]) continue;
    const auto at = static_cast<std::int64_t>(i);
    const Value piece = emit(b, slice, {args.grads[0]}, slice_attrs(args.attrs.ints[0], at, at + 1));
    args.result[i] = reshape_to(b, piece, args.inputs[i].spec->shape);
  }
}

}  // namespace

const Op slice = {.name = "slice",
                  .arity = 1,
                  .infer = infer_slice,
                  .cpu = EDF_CPU_KERNEL(slice_kernel),
                  .cuda = EDF_CUDA_KERNEL(slice_kernel),
                  .vjp = vjp_slice,
                  .flags = op_any_dtype};

const Op slice_grad = {.name = "slice_grad",
                       .arity = 1,
                       .infer = infer_slice_grad,
                       .cpu = EDF_CPU_KERNEL(slice_grad_kernel),
                       .cuda = EDF_CUDA_KERNEL(slice_grad_kernel),
                       .vjp = vjp_slice_grad,
                       .flags = op_any_dtype | op_internal};

const Op concat = {.name = "concat",
                   .arity = variadic,
                   .infer = infer_concat,
                   .cpu = EDF_CPU_KERNEL(concat_kernel),
                   .cuda = EDF_CUDA_KERNEL(concat_kernel),
                   .vjp = vjp_concat,
                   .flags = op_any_dtype,
                   .autocast = Autocast::widest};

const Op stack = {.name = "stack",
                  .arity = variadic,
                  .infer = infer_stack,
                  .cpu = EDF_CPU_KERNEL(stack_kernel),
                  .cuda = EDF_CUDA_KERNEL(stack_kernel),
                  .vjp = vjp_stack,
                  .flags = op_any_dtype,
                  .autocast = Autocast::widest};

}  // namespace ops
}  // namespace edfcore
