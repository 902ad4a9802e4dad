// Elementwise ops of one operand on a CUDA device: every functor of elementwise.h and its derivatives, and
// the ops that take a number beside it.
#include "ops/formulas_cuda.h"

namespace edfcore::cuda {

namespace {

template <class Op>
struct Gradient2 {
  template <class T>
  __device__ T operator()(T u, T g, T x, T y) const {
    return u * g * Op::d2f(x, y);
  }
};

// What it is like is not read, and may not be there.
template <class T>
__global__ void __launch_bounds__(block_threads) fill(T* out, T value, std::int64_t count) {
  const std::int64_t i = thread_number();
  if (i < count) out[i] = value;
}

// For functors that hold numbers: of (x) the value, of (g, x) the gradient.
template <template <class> class F, int N>
void map_with_numbers(const Launch& l) {
  map_any_floating<N>(l, [&](auto t) { return F<decltype(t)>(*l.attrs); });
}

template <class F, int N>
void map_plain(const Launch& l) {
  map_any_floating<N>(l, [](auto) { return F{}; });
}

template <class F, int N>
void map_floating(const Launch& l) {
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    map<T, T, N>(l, F{}, l.out[0], l.in);
  });
}

}  // namespace

#define EDF_UNARY_KERNELS(name, functor, reads)                                    \
  void name##_kernel(const Launch& l) { map_plain<Value<functor>, 1>(l); }         \
  void name##_grad_kernel(const Launch& l) { map_plain<Gradient<functor>, 3>(l); } \
  void name##_grad2_kernel(const Launch& l) { map_floating<Gradient2<functor>, 4>(l); }
EDF_UNARY_OPS(EDF_UNARY_KERNELS)
#undef EDF_UNARY_KERNELS

void scale_kernel(const Launch& l) {
  map_any_floating<1>(l,
                      [&](auto t) { return Scale<decltype(t)>{static_cast<decltype(t)>(l.attrs->scalar)}; });
}

void leaky_relu_kernel(const Launch& l) { map_with_numbers<LeakyRelu, 1>(l); }
void leaky_relu_grad_kernel(const Launch& l) { map_with_numbers<LeakyRelu, 2>(l); }
void clip_kernel(const Launch& l) { map_with_numbers<Clip, 1>(l); }
void clip_grad_kernel(const Launch& l) { map_with_numbers<Clip, 2>(l); }

void fill_like_kernel(const Launch& l) {
  visit_numeric(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    const View& out = l.out[0];
    if (out.size == 0) return;
    launch(fill<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream, pointer<T>(out),
           static_cast<T>(l.attrs->scalar), out.size);
  });
}

}  // namespace edfcore::cuda
