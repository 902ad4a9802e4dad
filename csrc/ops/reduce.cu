// sum, mean, var, max, min, max_mask, sum_to and broadcast_to on a CUDA device. Terms are joined in an order
// that depends on shapes alone; few outputs with many terms are reduced in two stages, with partial results
// in scratch.
#include "ops/reduce_cuda.h"

namespace edfcore::cuda {

namespace {

template <class T>
constexpr EDF_HD T lowest() {
  if constexpr (T(1) / T(2) != T(0)) {
    return T(-INFINITY);
  } else {
    return T(-1) < T(0) ? static_cast<T>(INT64_MIN >> (64 - 8 * static_cast<int>(sizeof(T)))) : T(0);
  }
}

template <class T>
constexpr EDF_HD T highest() {
  if constexpr (T(1) / T(2) != T(0)) {
    return T(INFINITY);
  } else {
    return static_cast<T>(~lowest<T>());
  }
}

struct MeanFold : SumFold {
  template <class Out>
  static __device__ Out finish(double acc, double terms) {
    return static_cast<Out>(acc / terms);
  }
};

struct MaxFold {
  template <class T>
  using Acc = T;
  template <class T>
  static EDF_HD T start() {
    return lowest<T>();
  }
  template <class T>
  static __device__ T lift(T x) {
    return x;
  }
  template <class T>
  static __device__ T join(T a, T b) {
    return Larger{}(a, b);
  }
  template <class Out>
  static __device__ Out finish(Out acc, double) {
    return acc;
  }
};

struct MinFold : MaxFold {  // NaN wins here, too
  template <class T>
  static EDF_HD T start() {
    return highest<T>();
  }
  template <class T>
  static __device__ T join(T a, T b) {
    return a < b || a != a ? a : b;
  }
};

// Of some terms: how many, one of them, and the sums of the others' distances to it and of their squares.
struct Moments {
  double n, shift, sum, squares;
};

__device__ inline Moments shuffle(Moments m, int offset) {
  return {cuda::shuffle(m.n, offset), cuda::shuffle(m.shift, offset), cuda::shuffle(m.sum, offset),
          cuda::shuffle(m.squares, offset)};
}

struct VarFold {
  template <class T>
  using Acc = Moments;
  template <class T>
  static EDF_HD Moments start() {
    return {0, 0, 0, 0};
  }
  static __device__ Moments lift(Moments m) { return m; }
  template <class T>
  static __device__ Moments lift(T x) {
    return {1, static_cast<double>(x), 0, 0};
  }
  static __device__ Moments join(Moments a, Moments b) {
    if (a.n == 0) return b;
    const double d = b.shift - a.shift, sum = b.sum + b.n * d;
    return {a.n + b.n, a.shift, a.sum + sum, a.squares + (b.squares + d * (b.sum + sum))};
  }
  template <class Out>
  static __device__ Out finish(Moments m, double terms) {
    const double squares = m.squares - m.sum * m.sum / m.n;
    return static_cast<Out>((squares < 0 ? 0 : squares) / terms);
  }
};

// The maximum, and how many terms it is tied between.
template <class T>
struct TopTies {
  T top;
  std::int64_t ties;
};

template <class T>
__device__ inline TopTies<T> shuffle(TopTies<T> value, int offset) {
  return {cuda::shuffle(value.top, offset), cuda::shuffle(value.ties, offset)};
}

template <class T>
__device__ bool ties(T a, T b) {
  return a == b || (a != a && b != b);
}

struct MaskFold {
  template <class T>
  using Acc = TopTies<T>;
  template <class T>
  static EDF_HD TopTies<T> start() {
    return {lowest<T>(), 0};
  }
  template <class T>
  static __device__ TopTies<T> lift(T x) {
    return {x, 1};
  }
  template <class T>
  static __device__ TopTies<T> join(TopTies<T> a, TopTies<T> b) {
    if (ties(a.top, b.top)) return {a.top, a.ties + b.ties};
    return ties(Larger{}(a.top, b.top), a.top) ? a : b;
  }
};

template <class T>
__device__ T mask_of(T x, TopTies<T> acc) {
  return ties(x, acc.top) ? T(1) / static_cast<T>(acc.ties) : T(0);
}

void mark_axes(const Attrs& attrs, bool* reduced) {
  for (int i = 0; i < attrs.n_ints; ++i) reduced[attrs.ints[i]] = true;
}

struct Identity {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};

template <class Fold>
void reduce_floating(const Launch& l, const bool* reduced) {
  visit_floating(l.out[0].dtype, [&](auto t) { reduce<Fold, decltype(t)>(l, l.in[0], reduced); });
}

// To the shape of the kernel's output.
template <Result Last>
void sum_to(const Launch& l, const View& x) {
  const View& y = l.out[0];
  bool reduced[max_rank] = {};
  for (int i = 0; i < x.rank; ++i) {
    const int axis = i - (x.rank - y.rank);
    reduced[i] = axis < 0 || (y.dims[axis] == 1 && x.dims[i] != 1);
  }
  visit_floating(y.dtype, [&](auto t) { reduce<SumFold, decltype(t), Last>(l, x, reduced); });
}

}  // namespace

void sum_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  reduce_floating<SumFold>(l, reduced);
}

void mean_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  reduce_floating<MeanFold>(l, reduced);
}

void max_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  visit_numeric(l.out[0].dtype, [&](auto t) { reduce<MaxFold, decltype(t)>(l, l.in[0], reduced); });
}

void min_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  visit_numeric(l.out[0].dtype, [&](auto t) { reduce<MinFold, decltype(t)>(l, l.in[0], reduced); });
}

void var_kernel(const Launch& l) {
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  visit_floating(l.out[0].dtype,
                 [&](auto t) { reduce<VarFold, decltype(t)>(l, l.in[0], reduced, l.attrs->scalar); });
}

void max_mask_kernel(const Launch& l) {
  if (l.out[0].size == 0) return;
  bool reduced[max_rank] = {};
  mark_axes(*l.attrs, reduced);
  const Reduction r = reduction(l.in[0], reduced);
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    reduce_stage<MaskFold, Result::mask>(l, r, pointer<const T>(l.in[0]), pointer<T>(l.out[0]),
                                         MaskFold::start<T>());
  });
}

void sum_to_kernel(const Launch& l) { sum_to<Result::output>(l, l.in[0]); }
void sum_to_sgd_kernel(const Launch& l) { sum_to<Result::descent>(l, l.in[1]); }

void broadcast_to_kernel(const Launch& l) {
  visit_width(dtype_size(l.out[0].dtype), [&](auto t) {
    using T = decltype(t);
    map<T, T, 1>(l, Identity{}, l.out[0], l.in);
  });
}

}  // namespace edfcore::cuda
