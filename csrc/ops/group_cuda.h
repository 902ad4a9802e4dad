// For *.cu: values merged between the threads of a group.
#pragma once

#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

template <class T>
__device__ inline T shuffle(T value, int offset) {
  return __shfl_xor_sync(0xffffffffu, value, offset);
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Larger {  // NaN wins
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

// NaN may lose: for a maximum that is taken from every element afterwards, which brings each NaN back.
__device__ inline float larger_number(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger_number(double a, double b) { return a > b ? a : b; }

struct LargerNumber {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return larger_number(a, b);
  }
};

// Merges the values of `Lanes` neighbouring threads in a fixed order; all of them get the result. All threads
// of the block must come here, and a kernel once for each kind of value and merge. With more than 32 lanes
// the block is the group.
template <int Lanes, class A, class Merge>
__device__ A combine(A value, Merge merge) {
  constexpr int in_warp = Lanes < 32 ? Lanes : 32;
  EDF_UNROLL
  for (int offset = in_warp / 2; offset > 0; offset /= 2) value = merge(value, shuffle(value, offset));
  if constexpr (Lanes > 32) {
    EDF_SHARED(A, shared, Lanes / 32);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[threadIdx.x % (Lanes / 32)];
    EDF_UNROLL
    for (int offset = Lanes / 64; offset > 0; offset /= 2) value = merge(value, shuffle(value, offset));
  }
  return value;
}

}  // namespace edfcore::cuda
