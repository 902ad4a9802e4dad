// The endings of the CUDA matmuls: what becomes of the elements of a product before they are stored. All of
// its kernels apply them, to float32 and float64; elements of half types are stored as they are.
#pragma once

#include "ops/kernel_cuda.h"

#include "ops/update.h"  // after exp_

namespace edfcore::cuda {

enum class EndKind : std::int32_t { none, descent };

template <class T>
struct End {
  EndKind kind;
  T rate;                 // of a descent along the product
  const double* numbers;  // as in Launch
  const Status* status;
  const T* operand;  // what the ending takes beside the elements, like the result, or null

  // As in all updates, a step in which a kernel met bad data moves nothing.
  __device__ bool holds() const { return kind == EndKind::descent && status->code != Status::ok; }

  __device__ T operator()(T x, T other) const {
    const Sgd<T> rule{numbers == nullptr ? rate : static_cast<T>(numbers[0]), T(0)};
    rule(other, x);
    return other;
  }
};

// The descent of a parameter, which is the result.
template <class T>
End<T> descent(const Launch& l) {
  return {EndKind::descent, static_cast<T>(l.attrs->scalar), l.numbers, l.status, pointer<const T>(l.out[0])};
}

// Ends and stores N elements of a thread; element j goes to c[at(j)], or nowhere if that is negative. What
// the ending computes is compiled once for all of them: they take turns in the first place.
template <int N, class T, class At>
__device__ void finish(const End<T>& end, T* c, T (&x)[N], const At& at) {
  if (end.holds()) return;
  T other[N] = {};
  EDF_UNROLL
  for (int j = 0; j < N; ++j)
    if (const std::int64_t i = at(j); i >= 0 && end.operand != nullptr) other[j] = end.operand[i];
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

}  // namespace edfcore::cuda
