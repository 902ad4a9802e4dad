// Records of matmul, in all transposed forms and of batches, and of affine, the layer x W + b.
#include <algorithm>

#include "ops/kernel_cuda.h"
#include "ops/matmul.h"
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(matmul)
EDF_KERNEL(matmul_sum)
EDF_KERNEL(matmul_sgd)
EDF_KERNEL(affine)

namespace ops {

namespace {

const char* axis_name(const Shape& shape, bool row) {
  return !row ? "last" : shape.rank() == 2 ? "first" : "last but one";
}

void infer_matmul(Inference& inf) {
  need_same_dtype(inf, 0, "a", 1, "b");
  need_floating(inf, 0, "a");
  const Shape &a = inf.in[0].shape, &b = inf.in[1].shape;
  if (a.rank() < 2 || b.rank() < 2)
    inf.shape_error("a has shape ", a, " and b has shape ", b, ": both must have 2 axes, or more.");
  const bool ta = inf.attrs.trans_a, tb = inf.attrs.trans_b;
  const Shape& batch = a.rank() > 2 ? a : b;
  bool fits = a.rank() == 2 || b.rank() == 2 || a.rank() == b.rank();
  for (int i = 0; fits && i < batch.rank() - 2; ++i) fits = b.rank() == 2 || a.rank() == 2 || a[i] == b[i];
  if (!fits)
    inf.shape_error("a has shape ", a, " and b has shape ", b,
                    ": the axes before the last two must be the same, or one of them must have no others.");
  if (a[ta ? -2 : -1] != b[tb ? -1 : -2])
    inf.shape_error("a has shape ", a, ta ? " (to be transposed)" : "", " and b has shape ", b,
                    tb ? " (to be transposed)" : "", ": the ", axis_name(a, ta), " axis of a must equal the ",
                    axis_name(b, !tb), " of b.");
  Shape shape = batch;
  shape[-2] = a[ta ? -1 : -2];
  shape[-1] = b[tb ? -2 : -1];
  inf.out[0] = {inf.in[0].dtype, shape};
}

// Of all matrices together.
std::int64_t rows_of(const Shape& shape) {
  std::int64_t rows = 1;
  for (int i = 0; i < shape.rank() - 1; ++i) rows *= shape[i];
  return rows;
}

Value product(Builder& b, Value left, bool trans_left, Value right, bool trans_right) {
  Attrs attrs;
  attrs.trans_a = trans_left;
  attrs.trans_b = trans_right;
  return emit(b, matmul, {left, right}, attrs);
}

Value as_matrix(Builder& b, Value x) {
  const Shape& shape = x.spec->shape;
  return reshape_to(b, x, {rows_of(shape), shape[-1]});
}

// With A' and B' as they enter the product, A' gets g B'^T and B' gets A'^T g; a transposed input gets the
// transpose. An operand that a batch shares gets the sum over it: for B that is one product of all rows, if A
// has them as rows.
void vjp_matmul(Builder& b, const VjpArgs& args) {
  Value g = args.grads[0], left = args.inputs[0];
  const Value right = args.inputs[1];
  const Shape &l = left.spec->shape, &r = right.spec->shape;
  const bool ta = args.attrs.trans_a, tb = args.attrs.trans_b;
  if (args.wanted[0]) {
    const Value all = ta ? product(b, right, tb, g, true) : product(b, g, false, right, !tb);
    args.result[0] = sum_to_shape(b, all, l);
  }
  if (!args.wanted[1]) return;
  if (r.rank() == 2 && !ta) {
    g = as_matrix(b, g);
    left = as_matrix(b, left);
  }
  const Value all = tb ? product(b, g, true, left, ta) : product(b, left, !ta, g, false);
  args.result[1] = sum_to_shape(b, all, r);
}

void infer_affine(Inference& inf) {
  need_same_dtype(inf, 0, "x", 1, "W");
  need_same_dtype(inf, 0, "x", 2, "b");
  need_floating(inf, 0, "x");
  const Shape &x = inf.in[0].shape, &w = inf.in[1].shape, &b = inf.in[2].shape;
  if (x.rank() != 2) inf.shape_error("x has shape ", x, ": it must have 2 axes, (batch, inputs).");
  if (w.rank() != 2) inf.shape_error("W has shape ", w, ": it must have 2 axes, (inputs, outputs).");
  if (x[1] != w[0])
    inf.shape_error("x has shape ", x, " and W has shape ", w,
                    ": the last axis of x must equal the first of W.");
  if (b.rank() != 1 || b[0] != w[1])
    inf.shape_error("W has shape ", w, " and b has shape ", b, ": b must have shape (", w[1], ",).");
  inf.out[0] = {inf.in[0].dtype, {x[0], w[1]}};
}

void vjp_affine(Builder& b, const VjpArgs& args) {
  const Value g = args.grads[0];
  if (args.wanted[0]) args.result[0] = product(b, g, false, args.inputs[1], true);
  if (args.wanted[1]) args.result[1] = product(b, args.inputs[0], true, g, false);
  if (args.wanted[2]) args.result[2] = sum_to_shape(b, g, args.inputs[2].spec->shape);
}

// On the CPU: counters, and the parts of the operands that are copied at once, rounded up to the tiles of any
// instruction set; small products of a batch need it for each of at most 64 chunks (matmul.cpu.cpp makes no
// more).
std::int64_t scratch_product(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                             DeviceType device, bool added) {
  const Shape& c = out[0].shape;
  const bool one =
      in[1].shape.rank() == 2 && !attrs.trans_a;  // the rows of the batch are those of one matrix
  const std::int64_t rows = one ? rows_of(c) : c[-2], columns = c[-1];
  const std::int64_t depth = in[0].shape[attrs.trans_a ? -2 : -1], size = dtype_size(out[0].dtype);
  std::int64_t batch = 1;
  for (int i = 0; !one && i < c.rank() - 2; ++i) batch *= c[i];
  if (device == DeviceType::cuda)  // parts of elements of 16 bits are float32
    return cuda::matmul_scratch(rows, columns, depth, std::max<std::int64_t>(size, 4), batch);
  const bool right = matmul_packs_right(rows, attrs.trans_b, columns * depth * size);
  const bool left = matmul_packs_left(rows, columns, attrs.trans_a, depth * size);
  const std::int64_t at_once =
      added || columns == 0 ? depth : matmul_depth_at_once(depth, rows, columns, right);
  const std::int64_t bytes = at_once * size;
  const std::int64_t copied = right ? matmul_columns_at_once(columns, rows, left, attrs.trans_a, bytes)
                              : columns % 64 != 0 ? 64
                                                  : 0;
  const std::int64_t on_right = (copied + 63) / 64 * 64;
  const std::int64_t on_left = left ? std::min(rows + 16, matmul_rows_at_once(columns, bytes)) : 0;
  const std::int64_t each = matmul_counters(rows) + bytes * (on_right + on_left);
  return each * (rows * columns * depth < (1 << 18) ? std::min(batch, std::int64_t{64}) : 1);
}

std::int64_t scratch_matmul(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                            DeviceType device) {
  return scratch_product(in, out, attrs, device, false);
}

// Products with the same matrix transposed, as the steps of a recurrent net are on the way back.
bool transposes(std::span<const Spec> in, const Attrs& attrs, DeviceType device) {
  return attrs.trans_b && in[1].shape.rank() == 2 && device == DeviceType::cpu;
}

std::int64_t flops_matmul(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs) {
  return 2 * out[0].shape.size() * in[0].shape[attrs.trans_a ? -2 : -1] +
         (in.size() > 2 ? out[0].shape.size() : 0);
}

void infer_matmul_sum(Inference& inf) {
  if (inf.in.size() < 3 || inf.in.size() % 2 == 0)
    inf.shape_error("takes c and pairs of matrices, and not ", inf.in.size(), " inputs.");
  const std::int64_t depth = inf.in[1].shape.rank() < 2 ? 0 : inf.in[1].shape[inf.attrs.trans_a ? -2 : -1];
  const auto pairs = static_cast<std::int64_t>(inf.in.size() / 2);
  if (pairs > 1 && pairs * depth > matmul_sum_depth)
    inf.shape_error(pairs, " products of depth ", depth, ": more than ", matmul_sum_depth, " in all.");
  for (std::size_t i = 1; i < inf.in.size(); i += 2) {
    Inference product{inf.op, inf.in.subspan(i, 2), inf.attrs, inf.out};
    infer_matmul(product);
    if (!(inf.in[0] == inf.out[0]))
      inf.shape_error("c has shape ", inf.in[0].shape, " and a product has shape ", inf.out[0].shape, ".");
  }
}

std::int64_t scratch_matmul_sum(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                                DeviceType device) {
  if (device == DeviceType::cpu && in.size() > 3) return 0;
  return scratch_product(in.subspan(1, 2), out, attrs, device, true);
}

std::int64_t flops_matmul_sum(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs) {
  const auto terms = static_cast<std::int64_t>(in.size() / 2);
  return terms * (flops_matmul(in.subspan(1, 2), out, attrs) + out[0].shape.size());
}

// The gradients of one matrix from several steps of a recurrent net. Not of half types, which are rounded
// before they are added; nor do these descend at once.
std::int64_t terms_of_sum(std::span<const Spec> in, const Attrs& attrs, DeviceType device) {
  if (device != DeviceType::cpu || is_half(in[0].dtype)) return 0;
  const std::int64_t depth = in[0].shape[attrs.trans_a ? -2 : -1];
  if (in[0].shape.rank() != 2 || in[1].shape.rank() != 2) return depth <= matmul_depth_block;
  if (depth > matmul_depth_block) return 0;
  return std::clamp<std::int64_t>(matmul_sum_depth / std::max<std::int64_t>(depth, 1), 1, 64);
}

void infer_matmul_sgd(Inference& inf) {
  Inference product{inf.op, inf.in.subspan(1), inf.attrs, inf.out};
  infer_matmul(product);
  if (!(inf.in[0] == inf.out[0]))
    inf.shape_error("p has shape ", inf.in[0].shape, " and the product has shape ", inf.out[0].shape, ".");
}

std::int64_t scratch_matmul_sgd(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                                DeviceType device) {
  return scratch_product(in.subspan(1), out, attrs, device, true);
}

std::int64_t flops_matmul_sgd(std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs) {
  return flops_matmul(in.subspan(1, 2), out, attrs) + 2 * out[0].shape.size();
}

bool descends(std::span<const Spec> in, const Attrs& attrs, DeviceType device) {
  return !is_half(in[0].dtype) && in[0].shape.rank() == 2 && in[1].shape.rank() == 2 &&
         (device == DeviceType::cuda || in[0].shape[attrs.trans_a ? 0 : 1] <= matmul_depth_block);
}

const Accumulation into_sum = {
    .into = &matmul_sum, .most = terms_of_sum, .descent = &matmul_sgd, .descends = descends};

const Sharing of_transposed = {
    .input = 1, .step = &transpose, .worth = transposes, .attrs = [](Attrs& attrs) {
      attrs.trans_b = false;
    }};

}  // namespace

const Op matmul = {.name = "matmul",
                   .arity = 2,
                   .infer = infer_matmul,
                   .cpu = EDF_CPU_KERNEL(matmul_kernel),
                   .cuda = EDF_CUDA_KERNEL(matmul_kernel),
                   .vjp = vjp_matmul,
                   .scratch = scratch_matmul,
                   .shares = &of_transposed,
                   .accumulates = &into_sum,
                   .flags = op_finishes | op_ends | op_half_on_cuda,
                   .autocast = Autocast::half,
                   .flops = flops_matmul,
                   .sums_columns = 1};

const Op matmul_sum = {.name = "matmul_sum",
                       .arity = variadic,
                       .infer = infer_matmul_sum,
                       .cpu = EDF_CPU_KERNEL(matmul_sum_kernel),
                       .cuda = EDF_CUDA_KERNEL(matmul_sum_kernel),
                       .scratch = scratch_matmul_sum,
                       .inplace = 0,
                       .flags = op_internal | op_no_grad,
                       .flops = flops_matmul_sum};

const Op matmul_sgd = {.name = "matmul_sgd",
                       .arity = 3,
                       .infer = infer_matmul_sgd,
                       .cpu = EDF_CPU_KERNEL(matmul_sgd_kernel),
                       .cuda = EDF_CUDA_KERNEL(matmul_sgd_kernel),
                       .scratch = scratch_matmul_sgd,
                       .flags = op_internal | op_mutates | op_no_grad,
                       .flops = flops_matmul_sgd,
                       .sums_columns = 2};

const Op affine = {.name = "affine",
                   .arity = 3,
                   .infer = infer_affine,
                   .cpu = EDF_CPU_KERNEL(affine_kernel),
                   .cuda = EDF_CUDA_KERNEL(affine_kernel),
                   .vjp = vjp_affine,
                   .scratch = scratch_matmul,
                   .flags = op_finishes | op_ends | op_half_on_cuda,
                   .autocast = Autocast::half,
                   .flops = flops_matmul};

}  // namespace ops
}  // namespace edfcore
