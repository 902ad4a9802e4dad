// Records of the elementwise ops of one operand: the unary list with its derivatives, and those that
// take a number beside it.
#include <string_view>

#include "ops/record.h"

namespace edfcore {

#define EDF_UNARY_KERNELS(name, functor, reads) \
  EDF_KERNEL(name) EDF_KERNEL(name##_grad) EDF_KERNEL(name##_grad2)
EDF_UNARY_OPS(EDF_UNARY_KERNELS)
EDF_KERNEL(scale)
EDF_KERNEL(fill_like)
EDF_KERNEL(leaky_relu)
EDF_KERNEL(leaky_relu_grad)
EDF_KERNEL(clip)
EDF_KERNEL(clip_grad)

namespace ops {

namespace {

void infer_unary(Inference& inf) {
  need_floating(inf, 0, "x");
  inf.out[0] = inf.in[0];
}

// (g, x, y) and (u, g, x, y): as many values of one shape and dtype.
void infer_derivative(Inference& inf) {
  need_floating(inf, 0, "g");
  for (int i = 1; i < static_cast<int>(inf.in.size()); ++i) {
    need_same_dtype(inf, 0, "g", i, "x");
    need_same_shape(inf, 0, "g", i, "x");
  }
  inf.out[0] = inf.in[0];
}

template <const Op& Grad>
void vjp_unary(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, Grad, {args.grads[0], args.inputs[0], args.outputs[0]});
}

// y is f(x), so the derivative through it belongs to x, and y itself gets none.
template <const Op& Grad, const Op& Grad2>
void vjp_unary_grad(Builder& b, const VjpArgs& args) {
  const Value u = args.grads[0], g = args.inputs[0], x = args.inputs[1], y = args.inputs[2];
  if (args.wanted[0]) args.result[0] = emit(b, Grad, {u, x, y});
  if (args.wanted[1]) args.result[1] = emit(b, Grad2, {u, g, x, y});
}

// Which inputs a derivative does not read, where x is input `x` and y the one after it.
enum Reads : std::uint32_t { reads_none = 0, reads_x = 1, reads_y = 2, reads_both = 3 };
constexpr std::uint32_t unread(Reads reads, int x) { return (~static_cast<std::uint32_t>(reads) & 3u) << x; }

void vjp_scale(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, scale, {args.grads[0]}, with_scalar(args.attrs.scalar));
}

// Ops whose derivative is constant on either side of a kink: of (g, x) only g has a gradient.
template <const Op& Grad>
void vjp_kinked(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, Grad, {args.grads[0], args.inputs[0]}, args.attrs);
}

template <const Op& Grad>
void vjp_kinked_grad(Builder& b, const VjpArgs& args) {
  if (args.wanted[0]) args.result[0] = emit(b, Grad, {args.grads[0], args.inputs[1]}, args.attrs);
}

void infer_fill_like(Inference& inf) {
  need_numeric(inf, 0, "x");
  inf.out[0] = inf.in[0];
}

}  // namespace

// Those that lose most in a half type.
static constexpr Autocast autocast_of(std::string_view op) {
  return op == "exp" || op == "log" || op == "softplus" ? Autocast::wide : Autocast::none;
}

static constexpr std::uint32_t ends_products(std::string_view op) {
#define EDF_ENDING(name, functor, reads) \
  if (op == #name || op == #name "_grad") return op_ending;
  EDF_ENDINGS(EDF_ENDING)
#undef EDF_ENDING
  return 0;
}

#define EDF_DEFINE_UNARY(op, functor, reads)                                                          \
  const Op op = {.name = #op,                                                                         \
                 .arity = 1,                                                                          \
                 .infer = infer_unary,                                                                \
                 .cpu = EDF_CPU_KERNEL(op##_kernel),                                                  \
                 .cuda = EDF_CUDA_KERNEL(op##_kernel),                                                \
                 .vjp = vjp_unary<op##_grad>,                                                         \
                 .inplace = 0,                                                                        \
                 .flags = op_elementwise | op_half_on_cuda | ends_products(#op),                      \
                 .autocast = autocast_of(#op),                                                        \
                 EDF_CHAINED(op)};                                                                    \
  const Op op##_grad = {.name = #op "_grad",                                                          \
                        .arity = 3,                                                                   \
                        .infer = infer_derivative,                                                    \
                        .cpu = EDF_CPU_KERNEL(op##_grad_kernel),                                      \
                        .cuda = EDF_CUDA_KERNEL(op##_grad_kernel),                                    \
                        .vjp = vjp_unary_grad<op##_grad, op##_grad2>,                                 \
                        .inplace = 0,                                                                 \
                        .flags = op_elementwise | op_half_on_cuda | op_internal | ends_products(#op), \
                        .unread = unread(reads_##reads, 1),                                           \
                        EDF_CHAINED(op##_grad)};                                                      \
  const Op op##_grad2 = {.name = #op "_grad2",                                                        \
                         .arity = 4,                                                                  \
                         .infer = infer_derivative,                                                   \
                         .cpu = EDF_CPU_KERNEL(op##_grad2_kernel),                                    \
                         .cuda = EDF_CUDA_KERNEL(op##_grad2_kernel),                                  \
                         .inplace = 0,                                                                \
                         .flags = op_elementwise | op_internal | op_no_grad,                          \
                         .unread = unread(reads_##reads, 2)};
EDF_UNARY_OPS(EDF_DEFINE_UNARY)
#undef EDF_DEFINE_UNARY

const Op scale = {.name = "scale",
                  .arity = 1,
                  .infer = infer_unary,
                  .cpu = EDF_CPU_KERNEL(scale_kernel),
                  .cuda = EDF_CUDA_KERNEL(scale_kernel),
                  .vjp = vjp_scale,
                  .inplace = 0,
                  .flags = op_elementwise | op_half_on_cuda | op_uniform,
                  EDF_CHAINED(scale)};

#define EDF_DEFINE_KINKED(op)                                                    \
  const Op op = {.name = #op,                                                    \
                 .arity = 1,                                                     \
                 .infer = infer_unary,                                           \
                 .cpu = EDF_CPU_KERNEL(op##_kernel),                             \
                 .cuda = EDF_CUDA_KERNEL(op##_kernel),                           \
                 .vjp = vjp_kinked<op##_grad>,                                   \
                 .inplace = 0,                                                   \
                 .flags = op_elementwise | op_half_on_cuda,                      \
                 EDF_CHAINED(op)};                                               \
  const Op op##_grad = {.name = #op "_grad",                                     \
                        .arity = 2,                                              \
                        .infer = infer_derivative,                               \
                        .cpu = EDF_CPU_KERNEL(op##_grad_kernel),                 \
                        .cuda = EDF_CUDA_KERNEL(op##_grad_kernel),               \
                        .vjp = vjp_kinked_grad<op##_grad>,                       \
                        .inplace = 0,                                            \
                        .flags = op_elementwise | op_half_on_cuda | op_internal, \
                        EDF_CHAINED(op##_grad)};
EDF_DEFINE_KINKED(leaky_relu)
EDF_DEFINE_KINKED(clip)
#undef EDF_DEFINE_KINKED

const Op fill_like = {.name = "fill_like",
                      .arity = 1,
                      .infer = infer_fill_like,
                      .cpu = EDF_CPU_KERNEL(fill_like_kernel),
                      .cuda = EDF_CUDA_KERNEL(fill_like_kernel),
                      .flags = op_elementwise | op_internal | op_no_grad | op_uniform,
                      .unread = 1};

}  // namespace ops
}  // namespace edfcore
