// Records of the ops that move values and change none: reshape and transpose.
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(reshape)
EDF_KERNEL(transpose)

namespace ops {

namespace {

// "shape (2, -1)" with its -1 filled in.
void infer_reshape(Inference& inf) {
  Attrs& attrs = inf.attrs;
  const Shape& x = inf.in[0].shape;
  const Shape asked = shape_of(attrs);
  int open = -1;
  Shape closed;
  for (int i = 0; i < asked.rank(); ++i) {
    if (asked[i] == -1) {
      if (open >= 0) inf.shape_error("shape ", asked, " has more than one -1.");
      open = i;
    } else if (asked[i] < 0) {
      inf.shape_error("shape ", asked, " has a negative axis.");
    } else {
      closed.push_back(asked[i]);
    }
  }
  std::int64_t known = closed.size();
  if (open >= 0) {
    if (known == 0)
      inf.shape_error("shape ", asked, " leaves open what -1 stands for, since another axis is 0.");
    attrs.ints[open] = x.size() / known;
    known *= attrs.ints[open];
  }
  if (known != x.size())
    inf.shape_error("x has shape ", x, " and so ", x.size(), " elements, which do not fill shape ", asked,
                    ".");
  inf.out[0] = {inf.in[0].dtype, shape_of(attrs)};
}

void vjp_reshape(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = reshape_to(b, args.grads[0], args.inputs[0].spec->shape);
}

void infer_transpose(Inference& inf) {
  Attrs& attrs = inf.attrs;
  const Shape& x = inf.in[0].shape;
  const int rank = x.rank();
  if (attrs.n_ints <= 0) {
    attrs.n_ints = rank;
    for (int i = 0; i < rank; ++i) attrs.ints[i] = rank - 1 - i;
  }
  if (attrs.n_ints != rank)
    inf.shape_error("x has shape ", x, ": a permutation of its axes names ", rank, ", not ", attrs.n_ints,
                    ".");
  bool seen[max_rank] = {};
  Shape shape;
  for (int i = 0; i < rank; ++i) {
    const std::int64_t asked = attrs.ints[i], axis = asked < 0 ? asked + rank : asked;
    if (axis < 0 || axis >= rank) inf.shape_error("there is no axis ", asked, " in x of shape ", x, ".");
    if (seen[axis]) inf.shape_error("axis ", axis, " of x is given twice.");
    seen[axis] = true;
    attrs.ints[i] = axis;
    shape.push_back(x[static_cast<int>(axis)]);
  }
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_transpose(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs inverse;
  inverse.n_ints = args.attrs.n_ints;
  for (int i = 0; i < inverse.n_ints; ++i) inverse.ints[args.attrs.ints[i]] = i;
  args.result[0] = emit(b, transpose, {args.grads[0]}, inverse);
}

}  // namespace

const Op reshape = {.name = "reshape",
                    .arity = 1,
                    .infer = infer_reshape,
                    .cpu = EDF_CPU_KERNEL(reshape_kernel),
                    .cuda = EDF_CUDA_KERNEL(reshape_kernel),
                    .vjp = vjp_reshape,
                    .flags = op_any_dtype | op_view | op_uniform};

const Op transpose = {.name = "transpose",
                      .arity = 1,
                      .infer = infer_transpose,
                      .cpu = EDF_CPU_KERNEL(transpose_kernel),
                      .cuda = EDF_CUDA_KERNEL(transpose_kernel),
                      .vjp = vjp_transpose,
                      .flags = op_any_dtype};

}  // namespace ops
}  // namespace edfcore
