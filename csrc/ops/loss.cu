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

Labels labels_of(const View& view) { return {view.data, view.dtype}; }

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    log_loss_scores_rows(const T* s, Labels labels, T* loss, Reporter reporter, Rows rows) {
  const auto p = part_of<Shape>(rows);
  s += p.row * rows.cols;
  const bool writes = p.live && p.lane == 0;
  const std::int64_t label = writes ? labels[p.row] : 0;
  const bool ok = 0 <= label && label < rows.cols;
  const T score = writes && ok ? s[label] : T(0);
  MaxSum<T> m;
  if constexpr (Shape::n > 0) {
    T kept[Shape::n];
    m = max_sum<Shape, false>(kept, s, p);
  } else {
    m = max_sum_online(s, p, [](auto&, std::int64_t) {});
  }
  if (!writes) return;
  if (!ok) reporter.report(p.row, label, rows.cols);
  loss[p.row] = ok ? (m.max - score) + log_(m.sum) : T(0);
}

// `out` may be `s` itself.
template <class Shape, class T>
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    log_loss_scores_grad_rows(const T* g, const T* s, Labels labels, T* out, Reporter reporter, Rows rows) {
  const auto p = part_of<Shape>(rows);
  const T scale = p.live ? g[p.row] : T(0);
  const std::int64_t label = p.live ? labels[p.row] : 0;
  if (p.live && p.lane == 0 && (label < 0 || label >= rows.cols)) reporter.report(p.row, label, rows.cols);
  s += p.row * rows.cols;
  out += p.row * rows.cols;
  const auto at_label = p.number_of(label);
  if constexpr (Shape::n > 0) {
    T kept[Shape::n];
    const MaxSum<T> m = max_sum<Shape, true>(kept, s, p);
    const T by = T(1) / m.sum;
    store_row<Shape, Shape::n>(
        out, p, 0, [&](int i) { return (i == at_label ? kept[i] * by - T(1) : kept[i] * by) * scale; });
  } else {
    constexpr int packs = span_packs<1>, n = packs * Shape::v;
    const Kept<Shape, T> kept(rows, p, 0);
    const MaxSum<T> m = max_sum_online(s, p, [&](const T(&span)[n], std::int64_t q) { kept.put(span, q); });
    const T by = T(1) / m.sum;
    for (std::int64_t q = (spans_of<Shape, 1>(p) - 1) * packs; q >= 0; q -= packs) {
      T span[n];
      kept.get(span, s, p, q, T(0));
      store_row<Shape, n>(out, p, q, [&](int i) {
        const T probability = exp_(span[i] - m.max) * by;
        return (q * Shape::v + i == at_label ? probability - T(1) : probability) * scale;
      });
    }
  }
}

// Of a row: the sum of exponentials, that of the weights, and that of weights by terms.
struct Sums {
  double exponentials, weights, terms;
};

__device__ inline Sums shuffle(Sums s, int offset) {
  return {cuda::shuffle(s.exponentials, offset), cuda::shuffle(s.weights, offset),
          cuda::shuffle(s.terms, offset)};
}

struct AddSums {
  __device__ Sums operator()(Sums a, Sums b) const {
    return {a.exponentials + b.exponentials, a.weights + b.weights, a.terms + b.terms};
  }
};

// A class of weight 0 adds nothing, however improbable: 0 ln 0 is 0. `Lanes` neighbouring threads share a
// row, here and below.
template <int Lanes, class T>
__global__ void __launch_bounds__(block_threads, roomy)
    log_loss_soft_rows(const T* p, const T* q, T* loss, std::int64_t rows, std::int64_t cols) {
  const std::int64_t row = thread_number() / Lanes, first = row * cols;
  double sum = 0;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x % Lanes); row < rows && c < cols; c += Lanes) {
    const T weight = q[first + c];
    if (weight != T(0)) sum += static_cast<double>(weight) * static_cast<double>(log_(p[first + c]));
  }
  sum = combine<Lanes>(sum, Plus{});
  if (row < rows && threadIdx.x % Lanes == 0) loss[row] = static_cast<T>(-sum);
}

template <int Lanes, class T>
__global__ void __launch_bounds__(block_threads, roomy)
    log_loss_soft_scores_rows(const T* s, const T* q, T* loss, std::int64_t rows, std::int64_t cols) {
  const std::int64_t row = thread_number() / Lanes, first = row * cols;
  const std::int64_t lane = static_cast<std::int64_t>(threadIdx.x % Lanes), end = row < rows ? cols : 0;
  T top = T(-INFINITY);
  for (std::int64_t c = lane; c < end; c += Lanes) top = larger_number(top, s[first + c]);
  top = combine<Lanes>(top, LargerNumber{});
  Sums sums{0, 0, 0};
  for (std::int64_t c = lane; c < end; c += Lanes) {
    const T weight = q[first + c], below = top - s[first + c];
    sums.exponentials += static_cast<double>(exp_(-below));
    sums.weights += static_cast<double>(weight);
    if (weight != T(0)) sums.terms += static_cast<double>(weight) * static_cast<double>(below);
  }
  sums = combine<Lanes>(sums, AddSums{});
  if (end > 0 && lane == 0)
    loss[row] = static_cast<T>(sums.terms + sums.weights * log_(sums.exponentials));
  else if (row < rows && lane == 0)
    loss[row] = T(0);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    log_loss_soft_grad_elements(const T* g, const T* p, const T* q, T* out, std::int64_t size,
                                std::int64_t cols) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  out[i] = q[i] == T(0) ? T(0) : -(g[divide(i, cols).quotient] * q[i]) / p[i];
}

// Calls body(lanes) with the number of threads for a row.
template <class Body>
void visit_soft_lanes(std::int64_t cols, const Body& body) {
  if (cols <= 16) return body(std::integral_constant<int, 8>{});
  if (cols <= 1024) return body(std::integral_constant<int, 32>{});
  body(std::integral_constant<int, 256>{});
}

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
  const View& s = l.in[0];
  if (l.out[0].size == 0) return;
  visit_floating(s.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 1>(row_size_of(s), [&](auto shape) {
      using Shape = decltype(shape);
      launch_rows<Shape, 1, T>(l, log_loss_scores_rows<Shape, T>,
                               rows_of<Shape, T>(l.out[0].size, s, {s.data}), pointer<const T>(s),
                               labels_of(l.in[1]), pointer<T>(l.out[0]), reporter(l, 1));
    });
  });
}

void log_loss_scores_grad_kernel(const Launch& l) {
  const View &s = l.in[1], &out = l.out[0];
  if (l.in[2].size == 0) return;
  visit_floating(out.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 1>(row_size_of(s), [&](auto shape) {
      using Shape = decltype(shape);
      launch_rows<Shape, 1, T>(l, log_loss_scores_grad_rows<Shape, T>,
                               rows_of<Shape, T>(l.in[2].size, s, {s.data, out.data}),
                               pointer<const T>(l.in[0]), pointer<const T>(s), labels_of(l.in[2]),
                               pointer<T>(out), reporter(l, 2));
    });
  });
}

void log_loss_soft_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_soft_lanes(cols, [&](auto lanes) {
      constexpr int L = decltype(lanes)::value;
      launch(log_loss_soft_rows<L, T>, blocks_for(rows, block_threads / L), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<T>(l.out[0]), rows, cols);
    });
  });
}

void log_loss_soft_scores_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_soft_lanes(cols, [&](auto lanes) {
      constexpr int L = decltype(lanes)::value;
      launch(log_loss_soft_scores_rows<L, T>, blocks_for(rows, block_threads / L), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<T>(l.out[0]), rows, cols);
    });
  });
}

void log_loss_soft_grad_kernel(const Launch& l) {
  const View& out = l.out[0];
  if (out.size == 0) return;
  visit_floating(out.dtype, [&](auto t) {
    using T = decltype(t);
    launch(log_loss_soft_grad_elements<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
           pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<const T>(l.in[2]), pointer<T>(out),
           out.size, row_size_of(out));
  });
}

}  // namespace edfcore::cuda
