// Records of the ops that read or write at given positions: rows of a table, entries along the last axis.
#include "ops/kernel_cuda.h"
#include "ops/record.h"

namespace edfcore {

EDF_KERNEL(gather_rows)
EDF_KERNEL(scatter_add_rows)
EDF_KERNEL(take_along_last)
EDF_KERNEL(put_along_last)

namespace ops {

namespace {

void infer_gather_rows(Inference& inf) {
  const Shape &table = inf.in[0].shape, &index = inf.in[1].shape;
  need_index(inf, 1, "index");
  if (table.rank() == 0) inf.shape_error("table has shape (): it must have rows.");
  if (index.rank() + table.rank() - 1 > max_rank)
    inf.shape_error("table has shape ", table, " and index has shape ", index,
                    ": the result would have more than ", max_rank, " axes.");
  Shape shape = index;
  for (int i = 1; i < table.rank(); ++i) shape.push_back(table[i]);
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_gather_rows(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  Attrs rows;
  rows.n_ints = 1;
  rows.ints[0] = args.inputs[0].spec->shape[0];
  args.result[0] = emit(b, scatter_add_rows, {args.grads[0], args.inputs[1]}, rows);
}

void infer_scatter_add_rows(Inference& inf) {
  const Shape &g = inf.in[0].shape, &index = inf.in[1].shape;
  need_floating(inf, 0, "g");
  need_index(inf, 1, "index");
  bool fits = index.rank() <= g.rank();
  for (int i = 0; fits && i < index.rank(); ++i) fits = g[i] == index[i];
  if (!fits)
    inf.shape_error("g has shape ", g, " and index has shape ", index,
                    ": the first axes of g must be those of index.");
  Shape shape{inf.attrs.ints[0]};
  for (int i = index.rank(); i < g.rank(); ++i) shape.push_back(g[i]);
  inf.out[0] = {inf.in[0].dtype, shape};
}

std::int64_t scratch_scatter_add_rows(std::span<const Spec> in, std::span<const Spec> out, const Attrs&,
                                      DeviceType device) {
  return device == DeviceType::cuda ? cuda::scatter_scratch(in[1].shape.size(), out[0].shape[0]) : 0;
}

void vjp_scatter_add_rows(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, gather_rows, {args.grads[0], args.inputs[1]});
}

// All axes of x but the last, then nothing or any number of entries.
void infer_take_along_last(Inference& inf) {
  const Shape &x = inf.in[0].shape, &index = inf.in[1].shape;
  need_index(inf, 1, "index");
  bool fits = x.rank() > 0 && (index.rank() == x.rank() - 1 || index.rank() == x.rank());
  for (int i = 0; fits && i + 1 < x.rank(); ++i) fits = x[i] == index[i];
  if (!fits)
    inf.shape_error("x has shape ", x, " and index has shape ", index,
                    ": index must have the axes of x without its last, or with another last.");
  inf.out[0] = {inf.in[0].dtype, index};
}

void vjp_take_along_last(Builder& b, const VjpArgs& args) {
  if (!args.wanted[0]) return;
  const Shape &x = args.inputs[0].spec->shape, &index = args.inputs[1].spec->shape;
  Attrs attrs;
  attrs.n_ints = 1;
  attrs.ints[0] = x[-1];
  attrs.keepdims = index.rank() == x.rank();
  args.result[0] = emit(b, put_along_last, {args.grads[0], args.inputs[1]}, attrs);
}

// keepdims: the index's last axis counts entries; otherwise each of its elements is one entry.
void infer_put_along_last(Inference& inf) {
  need_floating(inf, 0, "g");
  need_index(inf, 1, "index");
  need_same_shape(inf, 0, "g", 1, "index");
  Shape shape = inf.in[0].shape;
  if (inf.attrs.keepdims)
    shape[-1] = inf.attrs.ints[0];
  else
    shape.push_back(inf.attrs.ints[0]);
  inf.out[0] = {inf.in[0].dtype, shape};
}

void vjp_put_along_last(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, take_along_last, {args.grads[0], args.inputs[1]});
}

}  // namespace

const Op gather_rows = {.name = "gather_rows",
                        .arity = 2,
                        .infer = infer_gather_rows,
                        .cpu = EDF_CPU_KERNEL(gather_rows_kernel),
                        .cuda = EDF_CUDA_KERNEL(gather_rows_kernel),
                        .vjp = vjp_gather_rows,
                        .flags = op_any_dtype | op_checks};

const Op scatter_add_rows = {.name = "scatter_add_rows",
                             .arity = 2,
                             .infer = infer_scatter_add_rows,
                             .cpu = EDF_CPU_KERNEL(scatter_add_rows_kernel),
                             .cuda = EDF_CUDA_KERNEL(scatter_add_rows_kernel),
                             .vjp = vjp_scatter_add_rows,
                             .scratch = scratch_scatter_add_rows,
                             .flags = op_internal};

const Op take_along_last = {.name = "take_along_last",
                            .arity = 2,
                            .infer = infer_take_along_last,
                            .cpu = EDF_CPU_KERNEL(take_along_last_kernel),
                            .cuda = EDF_CUDA_KERNEL(take_along_last_kernel),
                            .vjp = vjp_take_along_last,
                            .flags = op_any_dtype | op_checks};

const Op put_along_last = {.name = "put_along_last",
                           .arity = 2,
                           .infer = infer_put_along_last,
                           .cpu = EDF_CPU_KERNEL(put_along_last_kernel),
                           .cuda = EDF_CUDA_KERNEL(put_along_last_kernel),
                           .vjp = vjp_put_along_last,
                           .flags = op_internal};

}  // namespace ops
}  // namespace edfcore
