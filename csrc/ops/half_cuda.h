// For *.cu: elementwise ops on half types, which compute in float and round once, as ops that run widened do.
#pragma once

#include "core/half.h"
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

// A bfloat16 or a float16: which of them is said beside it, or there would be twice as many kernels.
struct Half {
  std::uint16_t bits;
};

__device__ inline float wide(Half x, bool is_bfloat) {
  const float as_bfloat = static_cast<float>(__builtin_bit_cast(BFloat16, x));
  return is_bfloat ? as_bfloat : static_cast<float>(__builtin_bit_cast(Float16, x));
}

__device__ inline Half narrow(float x, bool is_bfloat) {
  return {is_bfloat ? BFloat16(x).bits : Float16(x).bits};
}

template <class F>
struct Rounded {
  F f;
  bool is_bfloat;

  template <class... Halves>
  __device__ Half operator()(Halves... x) const {
    return narrow(f(wide(x, is_bfloat)...), is_bfloat);
  }
};

// The same for float and double; `functor(T{})` is what computes in T.
template <int N, class Functor>
void map_any_floating(const Launch& l, const Functor& functor) {
  const DType dtype = l.out[0].dtype;
  if (is_half(dtype)) {
    const auto f = functor(float{});
    map<Half, Half, N>(l, Rounded<decltype(functor(float{}))>{f, dtype == DType::bf16}, l.out[0], l.in);
    return;
  }
  visit_floating(dtype, [&](auto t) {
    using T = decltype(t);
    map<T, T, N>(l, functor(t), l.out[0], l.in);
  });
}

}  // namespace edfcore::cuda
