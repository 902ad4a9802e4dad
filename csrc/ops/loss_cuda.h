// For *.cu: the log loss of a row of scores, and its gradient.
#pragma once

#include "ops/rows_cuda.h"

namespace edfcore::cuda {

// Labels of any dtype: read once for a row, they are not worth a kernel each.
struct Labels {
  const void* data;
  DType dtype;

  __device__ std::int64_t operator[](std::int64_t row) const {
    if (dtype == DType::i64) return static_cast<const std::int64_t*>(data)[row];
    if (dtype == DType::u8) return static_cast<const std::uint8_t*>(data)[row];
    return static_cast<const std::int32_t*>(data)[row];
  }
};

inline Labels labels_of(const View& view) { return {view.data, view.dtype}; }

template <class T>
__device__ inline T loss_of(MaxSum<T> row, T score_of_label) {
  return (row.max - score_of_label) + log_(row.sum);
}

// The gradient of a score, where `scale` is that of the loss.
template <class T>
__device__ inline T slope_of(T probability, bool is_label, T scale) {
  return (is_label ? probability - T(1) : probability) * scale;
}

}  // namespace edfcore::cuda
