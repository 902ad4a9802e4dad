// softmax and log_softmax over the last axis, and their gradients, on a CUDA device: a row is read once and
// written once as long as its threads can keep it in registers or shared memory.
#include "ops/rows_cuda.h"

namespace edfcore::cuda {

namespace {

template <class Shape, bool Log, class T>
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    softmax_rows(const T* x, T* y, Rows rows) {
  using W = Computed<T>;
  const auto p = part_of<Shape>(rows);
  x += p.row * rows.cols;
  y += p.row * rows.cols;
  if constexpr (Shape::n > 0) {
    W kept[Shape::n];
    const MaxSum<W> s = max_sum<Shape, !Log>(kept, x, p);
    const W by = Log ? log_(s.sum) : W(1) / s.sum;  // a sum is at least 1
    store_row<Shape, Shape::n>(y, p, 0, [&](int i) { return Log ? kept[i] - by : kept[i] * by; });
  } else {
    constexpr int packs = span_packs<Shape, 1>, n = packs * Shape::v;
    const Kept<Shape, T> kept(rows, p, 0);
    const MaxSum<W> s =
        max_sum_online<W>(p, [&](W(&span)[n], std::int64_t q) { kept.load(span, x, p, q, W(-INFINITY)); });
    const W by = Log ? log_(s.sum) : W(1) / s.sum;
    for (std::int64_t q = (spans_of<Shape, 1>(p) - 1) * packs; q >= 0; q -= packs) {
      W span[n];
      kept.get(span, x, p, q, W(0));
      store_row<Shape, n>(y, p, q, [&](int i) {
        const W shifted = span[i] - s.max;
        return Log ? shifted - by : exp_(shifted) * by;
      });
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
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    softmax_grad_rows(const T* g, const T* y, T* out, Rows rows) {
  using W = Computed<T>;
  const auto p = part_of<Shape>(rows);
  g += p.row * rows.cols;
  y += p.row * rows.cols;
  out += p.row * rows.cols;
  W sum = 0;
  if constexpr (Shape::n > 0) {
    W kept_g[Shape::n], kept_y[Shape::n];
    load_row(kept_g, g, p, 0, W(0));
    load_row(kept_y, y, p, 0, W(0));
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) sum += summand<Log>(kept_g[i], kept_y[i]);
    sum = combine<Shape::lanes>(sum, Plus{});
    store_row<Shape, Shape::n>(out, p, 0, [&](int i) { return gradient<Log>(kept_g[i], kept_y[i], sum); });
  } else {
    constexpr int packs = span_packs<Shape, 2>, n = packs * Shape::v;
    const std::int64_t end = spans_of<Shape, 2>(p) * packs;
    const Kept<Shape, T> kept_g(rows, p, 0), kept_y(rows, p, 1);
    for (std::int64_t q = 0; q < end; q += packs) {
      W span_g[n], span_y[n];
      kept_g.load(span_g, g, p, q, W(0));
      kept_y.load(span_y, y, p, q, W(0));
      EDF_UNROLL
      for (int i = 0; i < n; ++i) sum += summand<Log>(span_g[i], span_y[i]);
    }
    sum = combine<Shape::lanes>(sum, Plus{});
    for (std::int64_t q = end - packs; q >= 0; q -= packs) {
      W span_g[n], span_y[n];
      kept_g.get(span_g, g, p, q, W(0));
      kept_y.get(span_y, y, p, q, W(0));
      store_row<Shape, n>(out, p, q, [&](int i) { return gradient<Log>(span_g[i], span_y[i], sum); });
    }
  }
}

template <bool Log>
void softmax(const Launch& l) {
  const View& y = l.out[0];
  if (y.size == 0) return;
  visit_stored(y.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 1>(row_size_of(y), [&](auto shape) {
      using Shape = decltype(shape);
      launch_rows<Shape, 1, T>(l, softmax_rows<Shape, Log, T>,
                               rows_of<Shape, T>(y.size / row_size_of(y), y, {l.in[0].data, y.data}),
                               pointer<const T>(l.in[0]), pointer<T>(y));
    });
  });
}

template <bool Log>
void softmax_grad(const Launch& l) {
  const View& out = l.out[0];
  if (out.size == 0) return;
  visit_stored(out.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 2>(row_size_of(out), [&](auto shape) {
      using Shape = decltype(shape);
      launch_rows<Shape, 2, T>(
          l, softmax_grad_rows<Shape, Log, T>,
          rows_of<Shape, T>(out.size / row_size_of(out), out, {l.in[0].data, l.in[1].data, out.data}),
          pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<T>(out));
    });
  });
}

}  // namespace

void softmax_kernel(const Launch& l) { softmax<false>(l); }
void log_softmax_kernel(const Launch& l) { softmax<true>(l); }
void softmax_grad_kernel(const Launch& l) { softmax_grad<false>(l); }
void log_softmax_grad_kernel(const Launch& l) { softmax_grad<true>(l); }

}  // namespace edfcore::cuda
