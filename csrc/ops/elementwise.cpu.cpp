// CPU kernels of the elementwise ops of one operand.
#include "ops/stream_cpu.h"

#include "ops/elementwise.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t grain = 4096;  // transcendental functions cost tens of cycles each

template <class F, class... Others>
constexpr bool is_one_of = (__is_same(F, Others) || ...);

template <class F>
void unary(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    const auto body = [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = F::f(x[i]);
    };
    elementwise_ranges<T, is_one_of<F, Neg, Square, Relu, Abs>>(launch, grain, body);
  });
}

template <class F>
void unary_grad(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* x = pointer<const T>(launch.in[1]);
    const T* y = pointer<const T>(launch.in[2]);
    const auto body = [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = g[i] * F::df(x[i], y[i]);
    };
    elementwise_ranges<T, !is_one_of<F, Softplus, Gelu, Silu>>(launch, grain, body);
  });
}

template <class F>
void unary_grad2(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* u = pointer<const T>(launch.in[0]);
    const T* g = pointer<const T>(launch.in[1]);
    const T* x = pointer<const T>(launch.in[2]);
    const T* y = pointer<const T>(launch.in[3]);
    const auto body = [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = u[i] * g[i] * F::d2f(x[i], y[i]);
    };
    elementwise_ranges<T, false>(launch, grain, body);
  });
}

// For functors that hold numbers: y = f(x) and out = f(g, x).
template <template <class> class F>
void with_numbers(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const F<T> f(*launch.attrs);
    const T* x = pointer<const T>(launch.in[0]);
    elementwise_ranges<T>(launch, 4 * grain, [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = f(x[i]);
    });
  });
}

template <template <class> class F>
void with_numbers_grad(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const F<T> f(*launch.attrs);
    const T* g = pointer<const T>(launch.in[0]);
    const T* x = pointer<const T>(launch.in[1]);
    elementwise_ranges<T>(launch, 4 * grain, [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = f(g[i], x[i]);
    });
  });
}

}  // namespace

#define EDF_DEFINE_UNARY_KERNELS(name, functor, reads)                           \
  void name##_kernel(const Launch& launch) { unary<functor>(launch); }           \
  void name##_grad_kernel(const Launch& launch) { unary_grad<functor>(launch); } \
  void name##_grad2_kernel(const Launch& launch) { unary_grad2<functor>(launch); }
EDF_UNARY_OPS(EDF_DEFINE_UNARY_KERNELS)
#undef EDF_DEFINE_UNARY_KERNELS

void scale_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    const T factor = static_cast<T>(launch.attrs->scalar);
    elementwise_ranges<T>(launch, 4 * grain, [=](std::int64_t begin, std::int64_t end, T* to) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = x[i] * factor;
    });
  });
}

void leaky_relu_kernel(const Launch& launch) { with_numbers<LeakyRelu>(launch); }
void leaky_relu_grad_kernel(const Launch& launch) { with_numbers_grad<LeakyRelu>(launch); }
void clip_kernel(const Launch& launch) { with_numbers<Clip>(launch); }
void clip_grad_kernel(const Launch& launch) { with_numbers_grad<Clip>(launch); }

void fill_like_kernel(const Launch& launch) {
  visit_numeric(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T value = static_cast<T>(launch.attrs->scalar);
    elementwise_ranges<T>(launch, 4 * grain, [=](std::int64_t begin, std::int64_t end, T* to) {
      for (std::int64_t i = begin; i < end; ++i) to[i - begin] = value;
    });
  });
}

}  // namespace edfcore::EDF_ISA
