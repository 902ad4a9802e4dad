// For *.cu: what elementwise ops do, as functors of their operands.
#pragma once

#include "ops/half_cuda.h"

#include "ops/binary.h"  // after EDF_HD

namespace edfcore::cuda {

template <class Op>
struct Value {
  template <class T>
  __device__ T operator()(T x) const {
    return Op::f(x);
  }
};

template <class Op>
struct Gradient {
  template <class T>
  __device__ T operator()(T g, T x, T y) const {
    return g * Op::df(x, y);
  }
};

template <class T>
struct Scale {
  T factor;
  __device__ T operator()(T x) const { return x * factor; }
};

// Integers wrap around, as in NumPy: their arithmetic is done unsigned, where that is defined.
template <class T>
struct Wrapping {
  using type = T;
};
template <>
struct Wrapping<std::int32_t> {
  using type = std::uint32_t;
};
template <>
struct Wrapping<std::int64_t> {
  using type = std::uint64_t;
};
template <>
struct Wrapping<std::uint8_t> {
  using type = std::uint32_t;
};

template <class T>
using Unsigned = typename Wrapping<T>::type;

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
  }
};

struct Subtract {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
  }
};

struct Multiply {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(a) * static_cast<Unsigned<T>>(b));
  }
};

struct Divide {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a / b;
  }
};

}  // namespace edfcore::cuda
