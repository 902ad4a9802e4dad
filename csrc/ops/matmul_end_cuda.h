// The endings of the CUDA matmuls: what becomes of the elements of a product before they are stored. All of
// its kernels apply them, to float32 and float64; elements of half types are stored as they are.
#pragma once

#include "ops/kernel_cuda.h"

#include "ops/update.h"  // after exp_

namespace edfcore::cuda {

template <class T>
struct End {
  Ending kind;
  const T* operand;  // what the ending takes beside the elements, like the result, or null
  T* kept;           // where the elements themselves are stored, or null
  // Of a descent along the product:
  T rate;
  const double* numbers;  // as in Launch
  const Status* status;

  // As in all updates, a step in which a kernel met bad data moves nothing.
  __device__ bool holds() const { return kind == Ending::descent && status->code != Status::ok; }

  __device__ T operator()(T x, T other) const {
    switch (kind) {
#define EDF_ENDING(name, functor, reads) \
  case Ending::name:                     \
    return functor::f(x);                \
  case Ending::name##_grad:              \
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

// Where the result of a launch goes: its own, or that of the step that ends it.
inline const View& result_of(const Launch& l) { return l.next == nullptr ? l.out[0] : l.next->out[0]; }

// The descent of a parameter, which is the result.
template <class T>
End<T> descent(const Launch& l) {
  return {Ending::descent, pointer<const T>(l.out[0]), nullptr, static_cast<T>(l.attrs->scalar), l.numbers,
          l.status};
}

// The step that follows a product, if any: an activation, or the gradient of one along the product, of whose
// inputs (g, x, y) it reads one beside g.
template <class T>
End<T> following(const Launch& l) {
  End<T> end{};
  if (l.next == nullptr) return end;
  constexpr int operand_x = 1, operand_y = 2;
  end.kind = l.ending;
  end.kept = pointer<T>(l.out[0]);
  switch (l.ending) {
#define EDF_ENDING(name, functor, reads)                         \
  case Ending::name##_grad:                                      \
    end.operand = pointer<const T>(l.next->in[operand_##reads]); \
    break;
    EDF_ENDINGS(EDF_ENDING)
#undef EDF_ENDING
    default:
      break;
  }
  return end;
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

}  // namespace edfcore::cuda
