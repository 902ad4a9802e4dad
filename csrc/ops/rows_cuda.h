// For *.cu: values merged between the threads of a group, and rows that a group keeps in its registers.
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

// Merges the values of `Lanes` neighbouring threads in a fixed order; all of them get the result. All threads
// of the block must come here. With 256 lanes the block is the group.
template <int Lanes, class A, class Merge>
__device__ A combine(A value, Merge merge) {
  constexpr int in_warp = Lanes < 32 ? Lanes : 32;
  EDF_UNROLL
  for (int offset = in_warp / 2; offset > 0; offset /= 2) value = merge(value, shuffle(value, offset));
  if constexpr (Lanes > 32) {
    EDF_SHARED(A, shared, Lanes / 32);
    __syncthreads();  // the last result may still be being read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    EDF_UNROLL
    for (int warp = 1; warp < Lanes / 32; ++warp) value = merge(value, shared[warp]);
  }
  return value;
}

// How a row is spread: over how many threads, and how many elements each keeps in registers. 0: the row is
// longer than what they can keep and is read again.
template <int Lanes, int N>
struct RowShape {
  static constexpr int lanes = Lanes, n = N, per_block = block_threads / Lanes;
};

struct RowPlace {
  std::int64_t row;
  int lane;
};

template <class Shape>
__device__ inline RowPlace place_in_rows() {
  return {static_cast<std::int64_t>(blockIdx.x) * Shape::per_block + threadIdx.x / Shape::lanes,
          static_cast<int>(threadIdx.x % Shape::lanes)};
}

// Counts the columns of a row: 64 bits only where they may be needed.
template <class Shape>
using Columns = std::conditional_t<(Shape::n > 0), int, std::int64_t>;

template <class T, class Body>
void visit_row_shape(std::int64_t cols, const Body& body) {
  if (cols <= 16) return body(RowShape<8, 2>{});
  if (cols <= 128) return body(RowShape<32, 4>{});
  if (cols <= 512) return body(RowShape<32, 16>{});
  if constexpr (sizeof(T) == 4) {  // of doubles, more than 16 spill on some chips
    if (cols <= 1024) return body(RowShape<32, 32>{});
    if (cols <= 4096) return body(RowShape<256, 16>{});
    if (cols <= 6144) return body(RowShape<256, 24>{});
  } else {
    if (cols <= 4096) return body(RowShape<256, 16>{});
  }
  body(RowShape<256, 0>{});
}

// A row's maximum, and the sum of exp(x - max) over it.
template <class T>
struct MaxSum {
  T max, sum;
};

template <class T>
__device__ inline MaxSum<T> shuffle(MaxSum<T> value, int offset) {
  return {shuffle(value.max, offset), shuffle(value.sum, offset)};
}

struct MergeMaxSum {
  template <class T>
  __device__ static T moved(MaxSum<T> a, T max) {
    return a.sum == T(0) ? T(0) : a.sum * exp_(a.max - max);  // nothing summed yet: its maximum is -inf
  }
  template <class T>
  __device__ MaxSum<T> operator()(MaxSum<T> a, MaxSum<T> b) const {
    const T max = Larger{}(a.max, b.max);
    return {max, moved(a, max) + moved(b, max)};
  }
};

// Of a row that is kept in registers: reads x[0 .. cols) and leaves in `kept` exp(x - max), or x - max.
template <class Shape, bool Exp, class T>
__device__ MaxSum<T> max_sum(T (&kept)[Shape::n], const T* x, int cols, int lane) {
  T max = T(-INFINITY), sum = 0;
  EDF_UNROLL
  for (int i = 0; i < Shape::n; ++i) {
    const int col = lane + i * Shape::lanes;
    kept[i] = col < cols ? x[col] : T(-INFINITY);
    max = Larger{}(max, kept[i]);
  }
  max = combine<Shape::lanes>(max, Larger{});
  EDF_UNROLL
  for (int i = 0; i < Shape::n; ++i) {
    const T shifted = kept[i] - max, e = exp_(shifted);
    kept[i] = Exp ? e : shifted;
    sum += e;
  }
  return {max, combine<Shape::lanes>(sum, Plus{})};
}

// Of a longer row, in one pass.
template <class Shape, class T>
__device__ MaxSum<T> max_sum_online(const T* x, std::int64_t cols, int lane) {
  MaxSum<T> own{T(-INFINITY), T(0)};
  for (std::int64_t col = lane; col < cols; col += Shape::lanes) {
    const T value = x[col];
    if (value > own.max || value != value) {
      own.sum = MergeMaxSum::moved(own, value) + T(1);
      own.max = value;
    } else {
      own.sum += exp_(value - own.max);
    }
  }
  return combine<Shape::lanes>(own, MergeMaxSum{});
}

}  // namespace edfcore::cuda
