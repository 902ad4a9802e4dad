// The log loss on a CUDA device, of probabilities and of scores. The loss of a row whose label is out of
// range is 0, and the label is reported.
#include "ops/loss_cuda.h"

namespace edfcore::cuda {

namespace {

template <class T, class Index>
__global__ void __launch_bounds__(block_threads)
    log_loss_rows(const T* p, const Index* labels, T* loss, std::int64_t rows, std::int64_t cols,
                  bool is_bfloat, Reporter reporter) {
  const std::int64_t row = thread_number();
  if (row >= rows) return;
  const Checked y = checked(labels, row, cols, reporter);
  loss[row] =
      rounded_to<T>(y.ok ? -log_(wide(p[row * cols + y.value], is_bfloat)) : Computed<T>(0), is_bfloat);
}

// The loss of scores, and their gradient from that of the loss; `out` may be `s` itself.
template <class Shape, bool Loss, bool Grad, class T>
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    log_loss_scores_rows(const T* s, Labels labels, const T* g, T* out, T* loss, Reporter reporter,
                         Rows rows) {
  using W = Computed<T>;
  const auto p = part_of<Shape>(rows);
  const bool first = p.live && p.lane == 0;
  const std::int64_t label = (Grad ? p.live : first) ? labels[p.row] : 0;
  const bool ok = 0 <= label && label < rows.cols;
  if (first && !ok) reporter.report(p.row, label, rows.cols);
  s += p.row * rows.cols;
  const W score = Loss && first && ok ? wide(s[label], p.is_bfloat) : W(0);
  const W scale = Grad && p.live ? wide(g[p.row], p.is_bfloat) : W(0);
  if constexpr (Grad) out += p.row * rows.cols;
  [[maybe_unused]] const auto at_label = p.number_of(label);
  MaxSum<W> m;
  if constexpr (Shape::n > 0) {
    W kept[Shape::n];
    m = max_sum<Shape, Grad>(kept, s, p);
    const W by = W(1) / m.sum;
    if constexpr (Grad)
      store_row<Shape, Shape::n>(out, p, 0,
                                 [&](int i) { return slope_of(kept[i] * by, i == at_label, scale); });
  } else if constexpr (Grad) {
    constexpr int packs = span_packs<Shape, 1>, n = packs * Shape::v;
    const Kept<Shape, T> kept(rows, p, 0);
    m = max_sum_online<W>(p, [&](W(&span)[n], std::int64_t q) { kept.load(span, s, p, q, W(-INFINITY)); });
    const W by = W(1) / m.sum;
    for (std::int64_t q = (spans_of<Shape, 1>(p) - 1) * packs; q >= 0; q -= packs) {
      W span[n];
      kept.get(span, s, p, q, W(0));
      store_row<Shape, n>(out, p, q, [&](int i) {
        return slope_of(exp_(span[i] - m.max) * by, q * Shape::v + i == at_label, scale);
      });
    }
  } else {
    m = max_sum_online<W>(p, [&](auto& span, std::int64_t q) { load_row(span, s, p, q, W(-INFINITY)); });
  }
  if (Loss && first) loss[p.row] = rounded_to<T>(ok ? loss_of(m, score) : W(0), p.is_bfloat);
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
    log_loss_soft_rows(const T* p, const T* q, T* loss, std::int64_t rows, std::int64_t cols,
                       bool is_bfloat) {
  using W = Computed<T>;
  const std::int64_t row = thread_number() / Lanes, first = row * cols;
  double sum = 0;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x % Lanes); row < rows && c < cols; c += Lanes) {
    const W weight = wide(q[first + c], is_bfloat);
    if (weight != W(0))
      sum += static_cast<double>(weight) * static_cast<double>(log_(wide(p[first + c], is_bfloat)));
  }
  sum = combine<Lanes>(sum, Plus{});
  if (row < rows && threadIdx.x % Lanes == 0) loss[row] = rounded_to<T>(static_cast<W>(-sum), is_bfloat);
}

template <class T>
__device__ inline Sums plus_term(Sums sums, T weight, T below) {
  sums.exponentials += static_cast<double>(exp_(below));
  sums.weights += static_cast<double>(weight);
  if (weight != T(0)) sums.terms -= static_cast<double>(weight) * static_cast<double>(below);
  return sums;
}

template <class Shape, bool Loss, bool Grad, class T>
__global__ void __launch_bounds__(Shape::threads, (row_blocks<Shape, T>))
    log_loss_soft_scores_rows(const T* s, const T* q, const T* g, T* out, T* loss, Rows rows) {
  using W = Computed<T>;
  const auto p = part_of<Shape>(rows);
  const W scale = Grad && p.live ? wide(g[p.row], p.is_bfloat) : W(0);
  s += p.row * rows.cols;
  q += p.row * rows.cols;
  if constexpr (Grad) out += p.row * rows.cols;
  Sums sums{0, 0, 0};
  W top = W(-INFINITY);
  const auto slope = [&](W below, W weight) {
    const W by = W(1) / static_cast<W>(sums.exponentials);
    return (exp_(below) * by * static_cast<W>(sums.weights) - weight) * scale;
  };
  if constexpr (Shape::n > 0) {
    W below[Shape::n], weight[Shape::n];
    load_row(below, s, p, 0, W(-INFINITY));
    load_row(weight, q, p, 0, W(0));
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) top = larger_number(top, below[i]);
    top = combine<Shape::lanes>(top, LargerNumber{});
    EDF_UNROLL
    for (int i = 0; i < Shape::n; ++i) sums = plus_term(sums, weight[i], below[i] -= top);
    sums = combine<Shape::lanes>(sums, AddSums{});
    if constexpr (Grad)
      store_row<Shape, Shape::n>(out, p, 0, [&](int i) { return slope(below[i], weight[i]); });
  } else {
    constexpr int packs = span_packs<Shape, 2>, n = packs * Shape::v;
    const std::int64_t end = spans_of<Shape, 2>(p) * packs;
    const Kept<Shape, T> scores(rows, p, 0), weights(rows, p, 1);
    for (std::int64_t i = 0; i < end; i += packs) {
      W span[n];
      weights.load(span, q, p, i, W(0));
      scores.load(span, s, p, i, W(-INFINITY));
      EDF_UNROLL
      for (const W each : span) top = larger_number(top, each);
    }
    top = combine<Shape::lanes>(top, LargerNumber{});
    const auto get = [&](W(&below)[n], W(&weight)[n], std::int64_t i) {
      scores.get(below, s, p, i, W(-INFINITY));
      weights.get(weight, q, p, i, W(0));
      EDF_UNROLL
      for (W& each : below) each -= top;
    };
    W below[n], weight[n];
    for (std::int64_t i = 0; i < end; i += packs) {
      get(below, weight, i);
      EDF_UNROLL
      for (int j = 0; j < n; ++j) sums = plus_term(sums, weight[j], below[j]);
    }
    sums = combine<Shape::lanes>(sums, AddSums{});
    for (std::int64_t i = Grad ? end - packs : -1; i >= 0; i -= packs) {
      get(below, weight, i);
      store_row<Shape, n>(out, p, i, [&](int j) { return slope(below[j], weight[j]); });
    }
  }
  if (Loss && p.live && p.lane == 0)
    loss[p.row] = rounded_to<T>(
        rows.cols > 0 ? static_cast<W>(sums.terms + sums.weights * log_(sums.exponentials)) : W(0),
        p.is_bfloat);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    log_loss_soft_grad_elements(const T* g, const T* p, const T* q, T* out, std::int64_t size,
                                std::int64_t cols, bool is_bfloat) {
  using W = Computed<T>;
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const W weight = wide(q[i], is_bfloat), slope = wide(g[divide(i, cols).quotient], is_bfloat);
  out[i] = rounded_to<T>(weight == W(0) ? W(0) : -(slope * weight) / wide(p[i], is_bfloat), is_bfloat);
}

// Calls body(lanes) with the number of threads for a row.
template <class Body>
void visit_soft_lanes(std::int64_t cols, const Body& body) {
  if (cols <= 16) return body(std::integral_constant<int, 8>{});
  if (cols <= 1024) return body(std::integral_constant<int, 32>{});
  body(std::integral_constant<int, 256>{});
}

// What is to be made of scores: their gradient `out`, from that of the loss, and the loss. Null: not that
// one.
struct Wanted {
  const void* g;
  void *out, *loss;
};

template <bool... Values>
struct Flags {};

// Calls body(Flags<Loss, Grad>) for those that are wanted.
template <class Body>
void visit_wanted(const Wanted& wanted, const Body& body) {
  if (wanted.loss && wanted.out) return body(Flags<true, true>{});
  if (wanted.out) return body(Flags<false, true>{});
  if (wanted.loss) body(Flags<true, false>{});
}

// The scores and the labels are inputs `scores` and the next.
void of_scores(const Launch& l, int scores, const Wanted& wanted) {
  const View &s = l.in[scores], &labels = l.in[scores + 1];
  if (labels.size == 0) return;
  visit_stored(s.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 1>(row_size_of(s), [&](auto shape) {
      using Shape = decltype(shape);
      visit_wanted(wanted, [&]<bool Loss, bool Grad>(Flags<Loss, Grad>) {
        launch_rows<Shape, 1, T>(l, log_loss_scores_rows<Shape, Loss, Grad, T>,
                                 rows_of<Shape, T>(labels.size, s, {s.data, wanted.out}), pointer<const T>(s),
                                 labels_of(labels), static_cast<const T*>(wanted.g),
                                 static_cast<T*>(wanted.out), static_cast<T*>(wanted.loss),
                                 reporter(l, scores + 1));
      });
    });
  });
}

// The same with weights for labels.
void of_soft_scores(const Launch& l, int scores, const Wanted& wanted) {
  const View &s = l.in[scores], &weights = l.in[scores + 1];
  const std::int64_t rows = wanted.g ? l.in[scores == 0 ? 2 : 0].size : l.out[0].size;
  if (rows == 0) return;
  visit_stored(s.dtype, [&](auto t) {
    using T = decltype(t);
    visit_row_shape<T, 2>(row_size_of(s), [&](auto shape) {
      using Shape = decltype(shape);
      visit_wanted(wanted, [&]<bool Loss, bool Grad>(Flags<Loss, Grad>) {
        launch_rows<Shape, 2, T>(l, log_loss_soft_scores_rows<Shape, Loss, Grad, T>,
                                 rows_of<Shape, T>(rows, s, {s.data, weights.data, wanted.out}),
                                 pointer<const T>(s), pointer<const T>(weights),
                                 static_cast<const T*>(wanted.g), static_cast<T*>(wanted.out),
                                 static_cast<T*>(wanted.loss));
      });
    });
  });
}

}  // namespace

void log_loss_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_stored(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(l.in[1].dtype, [&](auto i) {
      using Index = decltype(i);
      launch(log_loss_rows<T, Index>, blocks_for(rows, block_threads), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const Index>(l.in[1]), pointer<T>(l.out[0]), rows, cols,
             l.out[0].dtype == DType::bf16, reporter(l, 1));
    });
  });
}

void log_loss_scores_kernel(const Launch& l) { of_scores(l, 0, {nullptr, nullptr, pointer<void>(l.out[0])}); }
void log_loss_scores_grad_kernel(const Launch& l) {
  of_scores(l, 1, {pointer<void>(l.in[0]), pointer<void>(l.out[0]), nullptr});
}
void log_loss_scores_both_kernel(const Launch& l) {
  of_scores(l, 0, {pointer<void>(l.in[2]), pointer<void>(l.out[0]), pointer<void>(l.out[1])});
}

void log_loss_soft_kernel(const Launch& l) {
  const std::int64_t rows = l.out[0].size, cols = row_size_of(l.in[0]);
  if (rows == 0) return;
  visit_stored(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    visit_soft_lanes(cols, [&](auto lanes) {
      constexpr int L = decltype(lanes)::value;
      launch(log_loss_soft_rows<L, T>, blocks_for(rows, block_threads / L), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<T>(l.out[0]), rows, cols,
             l.out[0].dtype == DType::bf16);
    });
  });
}

void log_loss_soft_scores_kernel(const Launch& l) {
  of_soft_scores(l, 0, {nullptr, nullptr, pointer<void>(l.out[0])});
}
void log_loss_soft_scores_grad_kernel(const Launch& l) {
  of_soft_scores(l, 1, {pointer<void>(l.in[0]), pointer<void>(l.out[0]), nullptr});
}
void log_loss_soft_scores_both_kernel(const Launch& l) {
  of_soft_scores(l, 0, {pointer<void>(l.in[2]), pointer<void>(l.out[0]), pointer<void>(l.out[1])});
}

void log_loss_soft_grad_kernel(const Launch& l) {
  const View& out = l.out[0];
  if (out.size == 0) return;
  visit_stored(out.dtype, [&](auto t) {
    using T = decltype(t);
    launch(log_loss_soft_grad_elements<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
           pointer<const T>(l.in[0]), pointer<const T>(l.in[1]), pointer<const T>(l.in[2]), pointer<T>(out),
           out.size, row_size_of(out), out.dtype == DType::bf16);
  });
}

}  // namespace edfcore::cuda
