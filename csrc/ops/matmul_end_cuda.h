// The endings of the CUDA matmuls: what becomes of the elements of a product before they are stored. All of
// its kernels apply them, to float32 and float64; elements of half types are stored as they are.
#pragma once

#include "ops/loss_cuda.h"
#include "ops/reduce_cuda.h"

#include "ops/update.h"  // after exp_

namespace edfcore::cuda {

template <class T>
struct End {
  Formula kind;
  const T* operand;  // what the ending takes beside the elements, like the result, or null
  T* kept;           // where the elements themselves are stored, or null
  // Of a descent along the product:
  T rate;
  const double* numbers;  // as in Launch
  const Status* status;
  // Of a loss of the rows of the product:
  const T* slopes;  // for each row, or null where no gradient is asked for
  T* loss;          // for each row, or null
  Labels labels;
  Reporter reporter;

  EDF_HD bool of_rows() const {
    return kind == Formula::log_loss_scores || kind == Formula::log_loss_scores_both;
  }

  // As in all updates, a step in which a kernel met bad data moves nothing.
  __device__ bool holds() const { return kind == Formula::descent && status->code != Status::ok; }

  __device__ T operator()(T x, T other) const {
    switch (kind) {
#define EDF_ENDING(name, functor, reads) \
  case Formula::name:                    \
    return functor::f(x);                \
  case Formula::name##_grad:             \
    return x * functor::df(other, other);
      EDF_ENDINGS(EDF_ENDING)
#undef EDF_ENDING
      default:
        break;
    }
    const Sgd<T> rule{numbers == nullptr ? rate : static_cast<T>(numbers[0]), T(0)};
    rule(other, x);
    return other;
  }
};

// Whether the step that a launch does, too, is about the columns of the right operand.
inline bool sums_columns(const Launch& l) {
  return l.formula == Formula::column_sum || l.formula == Formula::column_descent;
}

// Where the result of a launch goes: to its own output, or to that of the step that ends it; null if nowhere.
template <class T>
T* result_of(const Launch& l) {
  if (l.formula == Formula::log_loss_scores) return nullptr;
  return pointer<T>(l.next == nullptr || sums_columns(l) ? l.out[0] : l.next->out[0]);
}

// The descent of a parameter, which is the result.
template <class T>
End<T> descent(const Launch& l) {
  End<T> end{};
  end.kind = Formula::descent;
  end.operand = pointer<const T>(l.out[0]);
  end.rate = static_cast<T>(l.attrs->scalar);
  end.numbers = l.numbers;
  end.status = l.status;
  return end;
}

// The step that follows a product, if any: an activation; the gradient of one along the product, of whose
// inputs (g, x, y) it reads one beside g; or the loss of scores (s, labels), or (s, labels, g) with the
// gradient.
template <class T>
End<T> following(const Launch& l) {
  End<T> end{};
  if (l.next == nullptr || sums_columns(l)) return end;
  constexpr int operand_x = 1, operand_y = 2;
  end.kind = l.formula;
  end.kept = pointer<T>(l.out[0]);
  switch (l.formula) {
#define EDF_ENDING(name, functor, reads)                         \
  case Formula::name##_grad:                                     \
    end.operand = pointer<const T>(l.next->in[operand_##reads]); \
    break;
    EDF_ENDINGS(EDF_ENDING)
#undef EDF_ENDING
    case Formula::log_loss_scores_both:
      end.slopes = pointer<const T>(l.next->in[2]);
      [[fallthrough]];
    case Formula::log_loss_scores:
      end.loss = pointer<T>(l.next->out[l.next->n_out - 1]);
      end.labels = labels_of(l.next->in[1]);
      end.reporter = reporter(*l.next, 1);
      break;
    default:
      break;
  }
  return end;
}

// The sums of the right operand's columns, which blocks behind those of the product make: a bias's gradient,
// or its descent along that. They are those of reduce.cu, bit by bit.
template <class T>
struct ColumnSums {
  T* to;  // null: none are asked for
  bool descends;
  int width;
  std::int64_t blocks;
  Reduction r;

  __device__ void run(const T* x, std::int64_t block) const {
    EDF_SHARED(double, shared, block_threads);
    const ColumnPlace p(r, width, block, blocks);
    const double sum = join_column<SumFold>(r, p, x, 0.0, width, shared);
    if (!p.live || p.row > 0) return;
    if (descends)
      put<Result::descent, SumFold>(r, to, p.group, p.chunk, sum);
    else
      put<Result::output, SumFold>(r, to, p.group, p.chunk, sum);
  }
};

template <class T>
ColumnSums<T> column_sums(const Launch& l) {
  ColumnSums<T> sums{};
  if (!sums_columns(l)) return sums;
  const Launch& next = *l.next;
  const bool reduced[2] = {true, false};
  sums.to = pointer<T>(next.out[0]);
  sums.descends = l.formula == Formula::column_descent;
  sums.r = reduction(next.in[next.n_in - 1], reduced);
  sums.r.rate = next.attrs->scalar;
  sums.r.numbers = next.numbers;
  sums.r.status = next.status;
  sums.width = column_width(sums.r);
  sums.blocks = (sums.r.groups + sums.width - 1) / sums.width;
  return sums;
}

// Ends and stores N elements of a thread; element j goes to c[at(j)], or nowhere if that is negative. What
// the ending computes is compiled once for all of them: they take turns in the first place.
template <int N, class T, class At>
__device__ void finish(const End<T>& end, T* c, T (&x)[N], const At& at) {
  if (end.holds()) return;
  T other[N] = {};
  EDF_UNROLL
  for (int j = 0; j < N; ++j)
    if (const std::int64_t i = at(j); i >= 0) {
      if (end.operand != nullptr) other[j] = end.operand[i];
      if (end.kept != nullptr) end.kept[i] = x[j];
    }
  EDF_UNROLL_BY(1)
  for (int turn = 0; turn < N; ++turn) {
    const T ended = end(x[0], other[0]);
    EDF_UNROLL
    for (int j = 0; j + 1 < N; ++j) {
      x[j] = x[j + 1];
      other[j] = other[j + 1];
    }
    x[N - 1] = ended;
  }
  EDF_UNROLL
  for (int j = 0; j < N; ++j)
    if (const std::int64_t i = at(j); i >= 0) c[i] = x[j];
}

// How the rows of a product lie that ends with their loss: over neighbouring threads, a pack in each.
inline constexpr int row_pack = 2, row_lanes = static_cast<int>(ending_columns) / row_pack;

// The same where that is the loss of scores: of `row`, a thread has `x` at column `first`. All threads of a
// warp come here; one without a row is not `live`.
template <class T>
__device__ void finish_row(const End<T>& end, T* c, const T (&x)[row_pack], std::int64_t row, bool live,
                           int first, int cols) {
  const std::int64_t label = live ? end.labels[row] : 0;
  const bool ok = 0 <= label && label < cols;
  T kept[row_pack], score = T(-INFINITY);
  EDF_UNROLL
  for (int j = 0; j < row_pack; ++j) {
    kept[j] = first + j < cols ? x[j] : T(-INFINITY);
    if (first + j == label) score = kept[j];
    if (end.kept != nullptr && live && first + j < cols) end.kept[row * cols + first + j] = x[j];
  }
  score = combine<row_lanes>(score, LargerNumber{});  // if that is NaN, the sum is NaN, too
  const MaxSum<T> m = max_sum_of<row_lanes, true>(kept);
  if (!live) return;
  if (end.slopes != nullptr) {
    const T scale = end.slopes[row], by = T(1) / m.sum;
    EDF_UNROLL
    for (int j = 0; j < row_pack; ++j)
      if (first + j < cols) c[row * cols + first + j] = slope_of(kept[j] * by, first + j == label, scale);
  }
  if (first > 0) return;
  if (!ok) end.reporter.report(row, label, cols);
  if (end.loss != nullptr) end.loss[row] = ok ? loss_of(m, score) : T(0);
}

}  // namespace edfcore::cuda
