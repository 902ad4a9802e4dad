// softmax and log_softmax over the last axis, and their gradients, on a CUDA device: a row is read once and
// written once as long as its threads can keep it in registers.
#include "ops/rows_cuda.h"

namespace edfcore::cuda {

namespace {

template <class Shape, bool Log, class T>
__global__ void __launch_bounds__(block_threads, roomy)
    softmax_rows(const T* x, T* y, std::int64_t rows, std::int64_t row_size) {
  const auto [row, lane] = place_in_rows<Shape>();
  const Columns<Shape> cols =
      row < rows ? static_cast<Columns<Shape>>(row_size) : 0;  // all reach the barriers
  x += row * row_size;
  y += row * row_size;
  if constexpr (Shape::n > 0) {
    T kept[Shape::n];
    const MaxSum<T> s = max_sum<Shape, !Log>(kept, x, cols, lane);
    const T log_sum = Log ? log_(s.sum) : T(0);
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) {
      const int col = lane + i * Shape::lanes;
      if (col < cols) y[col] = Log ? kept[i] - log_sum : kept[i] / s.sum;
    }
  } else {
    const MaxSum<T> s = max_sum_online<Shape>(x, cols, lane);
    const T log_sum = Log ? log_(s.sum) : T(0);
    for (Columns<Shape> col = lane; col < cols; col += Shape::lanes) {
      const T shifted = x[col] - s.max;
      y[col] = Log ? shifted - log_sum : exp_(shifted) / s.sum;
    }
  }
}

// What a row's gradient sums up, and what it is, from g and the op's output y.
template <bool Log, class T>
__device__ T summand(T g, T y) {
  return Log ? g : g * y;
}
template <bool Log, class T>
__device__ T gradient(T g, T y, T sum) {
  return Log ? g - exp_(y) * sum : y * (g - sum);
}

template <class Shape, bool Log, class T>
__global__ void __launch_bounds__(block_threads, roomy)
    softmax_grad_rows(const T* g, const T* y, T* out, std::int64_t rows, std::int64_t row_size) {
  const auto [row, lane] = place_in_rows<Shape>();
  const Columns<Shape> cols = row < rows ? static_cast<Columns<Shape>>(row_size) : 0;
  g += row * row_size;
  y += row * row_size;
  out += row * row_size;
  T sum = 0;
  if constexpr (Shape::n > 0) {
    T kept_g[Shape::n], kept_y[Shape::n];
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) {
      const int col = lane + i * Shape::lanes;
      kept_g[i] = col < cols ? g[col] : T(0);
      kept_y[i] = col < cols ? y[col] : T(0);
      sum += summand<Log>(kept_g[i], kept_y[i]);
    }
    sum = combine<Shape::lanes>(sum, Plus{});
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) {
      const int col = lane + i * Shape::lanes;
      if (col < cols) out[col] = gradient<Log>(kept_g[i], kept_y[i], sum);
    }
  } else {
    for (Columns<Shape> col = lane; col < cols; col += Shape::lanes) sum += summand<Log>(g[col], y[col]);
    sum = combine<Shape::lanes>(sum, Plus{});
    for (Columns<Shape> col = lane; col < cols; col += Shape::lanes)
      out[col] = gradient<Log>(g[col], y[col], sum);
  }
}

std::int64_t row_size_of(const View& x) { return x.dims[x.rank - 1]; }

template <bool Log>
void softmax(const Launch& l) {
  if (l.out[0].size == 0) return;
  const std::int64_t cols = row_size_of(l.out[0]), rows = l.out[0].size / cols;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T>(cols, [&](auto shape) {
      using Shape = decltype(shape);
      launch(softmax_rows<Shape, Log, T>, blocks_for(rows, Shape::per_block), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<T>(l.out[0]), rows, cols);
    });
  });
}

template <bool Log>
void softmax_grad(const Launch& l) {
  if (l.out[0].size == 0) return;
  const std::int64_t cols = row_size_of(l.out[0]), rows = l.out[0].size / cols;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T>(cols, [&](auto shape) {
      using Shape = decltype(shape);
      launch(softmax_grad_rows<Shape, Log, T>, blocks_for(rows, Shape::per_block), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<T>(l.out[0]), rows, cols);
    });
  });
}

}  // namespace

void softmax_kernel(const Launch& l) { softmax<false>(l); }
void log_softmax_kernel(const Launch& l) { softmax<true>(l); }
void softmax_grad_kernel(const Launch& l) { softmax_grad<false>(l); }
void log_softmax_grad_kernel(const Launch& l) { softmax_grad<true>(l); }

}  // namespace edfcore::cuda
