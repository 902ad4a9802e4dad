// For *.cu: ops on half types, which compute in float and round once, as ops that run widened do.
#pragma once

#include "core/half.h"
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

// A bfloat16 or a float16: which of them is said beside it, or there would be twice as many kernels.
struct Half {
  std::uint16_t bits;
};

// Devices convert by single instructions what core/half.h says in many; NaN stays some NaN.
__device__ inline float wide(Half x, bool is_bfloat) {
  const float as_bfloat = static_cast<float>(__builtin_bit_cast(BFloat16, x));
#if defined(__CUDA_ARCH__)
  float as_float16;
  asm("cvt.f32.f16 %0, %1;" : "=f"(as_float16) : "h"(x.bits));
#else
  const float as_float16 = static_cast<float>(__builtin_bit_cast(Float16, x));
#endif
  return is_bfloat ? as_bfloat : as_float16;
}

// Two neighbours, x in the lower half of the word.
__device__ inline std::uint32_t narrow(float x, float y, bool is_bfloat) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t as_bfloat, as_float16;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(as_bfloat) : "f"(y), "f"(x));
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(as_float16) : "f"(y), "f"(x));
  return is_bfloat ? as_bfloat : as_float16;
#else
  const std::uint16_t low = is_bfloat ? BFloat16(x).bits : Float16(x).bits,
                      high = is_bfloat ? BFloat16(y).bits : Float16(y).bits;
  return low | static_cast<std::uint32_t>(high) << 16;
#endif
}

__device__ inline Half narrow(float x, bool is_bfloat) {
  return {static_cast<std::uint16_t>(narrow(x, 0.0f, is_bfloat))};
}

// What kernels that read and write T compute in. Of float and double, the functions below change nothing.
template <class T>
using Computed = std::conditional_t<std::is_same_v<T, Half>, float, T>;

template <class T>
__device__ inline T wide(T x, bool) {
  return x;
}

template <class T>
__device__ inline T rounded_to(Computed<T> x, bool is_bfloat) {
  if constexpr (std::is_same_v<T, Half>)
    return narrow(x, is_bfloat);
  else
    return x;
}

// The same for the V elements of a pack, value(i) being what was computed.
template <class T, int V>
__device__ inline void widen(Computed<T>* to, const Pack<T, V>& pack, bool is_bfloat) {
  EDF_UNROLL
  for (int i = 0; i < V; ++i)
    if constexpr (std::is_same_v<T, Half>) {  // taken from words, or these would be taken apart
      std::uint32_t word;
      memcpy(&word, pack.v + i / 2 * 2, sizeof word);
      to[i] = wide(Half{static_cast<std::uint16_t>(word >> i % 2 * 16)}, is_bfloat);
    } else {
      to[i] = pack.v[i];
    }
}

template <class T, int V, class Value>
__device__ inline Pack<T, V> rounded_pack(const Value& value, bool is_bfloat) {
  static_assert(!std::is_same_v<T, Half> || V % 2 == 0);
  Pack<T, V> pack;
  EDF_UNROLL
  for (int i = 0; i < V; ++i)
    if constexpr (!std::is_same_v<T, Half>) {
      pack.v[i] = value(i);
    } else if (i % 2 == 0) {
      const std::uint32_t word = narrow(value(i), value(i + 1), is_bfloat);
      memcpy(pack.v + i, &word, sizeof word);
    }
  return pack;
}

// Calls body(T{}) with the C++ type in which values of a floating dtype are stored.
template <class Body>
void visit_stored(DType dtype, const Body& body) {
  if (is_half(dtype)) return body(Half{});
  visit_floating(dtype, body);
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

// An elementwise op on any floating dtype; `functor(T{})` is what computes in T.
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
