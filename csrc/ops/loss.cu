// The log loss on a CUDA device, of probabilities and of scores. The loss of a row whose label is out of
// range is 0, and the label is reported.
#include "ops/rows_cuda.h"

namespace edfcore::cuda {

namespace {

template <class T, class Index>
__global__ void __launch_bounds__(block_threads)
    log_loss_rows(const T* p, const Index* labels, T* loss, std::int64_t rows, std::int64_t cols,
                  Reporter reporter) {
  const std::int64_t row = thread_number();
  if (row >= rows) return;
  const Checked y = checked(labels, row, cols, reporter);
  loss[row] = y.ok ? -log_(p[row * cols + y.value]) : T(0);
}

template <class Shape, class T, class Index>
__global__ void __launch_bounds__(block_threads)
    log_loss_scores_rows(const T* s, const Index* labels, T* loss, std::int64_t rows, std::int64_t row_size,
                         Reporter reporter) {
  const auto [row, lane] = place_in_rows<Shape>();
  const bool live = row < rows;
  const Columns<Shape> cols = live ? static_cast<Columns<Shape>>(row_size) : 0;
  s += row * row_size;
  MaxSum<T> m;
  if constexpr (Shape::n > 0) {
    T kept[Shape::n];
    m = max_sum<Shape, false>(kept, s, cols, lane);
  } else {
    m = max_sum_online<Shape>(s, cols, lane);
  }
  if (!live || lane != 0) return;
  const Checked y = checked(labels, row, row_size, reporter);
  loss[row] = y.ok ? (m.max - s[y.value]) + log_(m.sum) : T(0);
}

template <class T>
__device__ T loss_gradient(T p, bool at_label, T g) {
  return (at_label ? p - T(1) : p) * g;
}

// `out` may be `s` itself.
template <class Shape, class T, class Index>
__global__ void __launch_bounds__(block_threads, roomy)
    log_loss_scores_grad_rows(const T* g, const T* s, const Index* labels, T* out, std::int64_t rows,
                              std::int64_t row_size, Reporter reporter) {
  const auto [row, lane] = place_in_rows<Shape>();
  const bool live = row < rows;
  const Columns<Shape> cols = live ? static_cast<Columns<Shape>>(row_size) : 0;
  const T scale = live ? g[row] : T(0);
  const std::int64_t label = live ? static_cast<std::int64_t>(labels[row]) : 0;
  if (live && lane == 0) checked(labels, row, row_size, reporter);
  s += row * row_size;
  out += row * row_size;
  if constexpr (Shape::n > 0) {
    T kept[Shape::n];
    const MaxSum<T> m = max_sum<Shape, true>(kept, s, cols, lane);
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) {
      const int col = lane + i * Shape::lanes;
      if (col < cols) out[col] = loss_gradient(kept[i] / m.sum, col == label, scale);
    }
  } else {
    const MaxSum<T> m = max_sum_online<Shape>(s, cols, lane);
    for (Columns<Shape> col = lane; col < cols; col += Shape::lanes)
      out[col] = loss_gradient(exp_(s[col] - m.max) / m.sum, col == label, scale);
  }
}

std::int64_t row_size_of(const View& x) { return x.dims[x.rank - 1]; }

}  // namespace

void log_loss_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(l.in[1].dtype, [&](auto i) {
      using Index = decltype(i);
      launch(log_loss_rows<T, Index>, blocks_for(rows, block_threads), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const Index>(l.in[1]), pointer<T>(l.out[0]), rows, cols,
             reporter(l, 1));
    });
  });
}

void log_loss_scores_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(l.in[1].dtype, [&](auto i) {
      using Index = decltype(i);
      visit_row_shape<T>(cols, [&](auto shape) {
        using Shape = decltype(shape);
        launch(log_loss_scores_rows<Shape, T, Index>, blocks_for(rows, Shape::per_block), block_threads, 0,
               l.stream, pointer<const T>(l.in[0]), pointer<const Index>(l.in[1]), pointer<T>(l.out[0]), rows,
               cols, reporter(l, 1));
      });
    });
  });
}

void log_loss_scores_grad_kernel(const Launch& l) {
  const std::int64_t rows = l.in[2].size, cols = row_size_of(l.in[1]);
  if (rows == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(l.in[2].dtype, [&](auto i) {
      using Index = decltype(i);
      visit_row_shape<T>(cols, [&](auto shape) {
        using Shape = decltype(shape);
        launch(log_loss_scores_grad_rows<Shape, T, Index>, blocks_for(rows, Shape::per_block), block_threads,
               0, l.stream, pointer<const T>(l.in[0]), pointer<const T>(l.in[1]),
               pointer<const Index>(l.in[2]), pointer<T>(l.out[0]), rows, cols, reporter(l, 2));
      });
    });
  });
}

}  // namespace edfcore::cuda
