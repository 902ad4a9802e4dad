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

}  // namespace edfcore::cuda
