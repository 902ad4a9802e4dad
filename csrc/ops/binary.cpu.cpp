// CPU kernels of add, sub, mul and div.
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t grain = 16384;

// Integers wrap around, as in NumPy; in C++ only unsigned ones may.
template <class T>
struct Wrapping {
  using Type = T;
};
template <>
struct Wrapping<std::int32_t> {
  using Type = std::uint32_t;
};
template <>
struct Wrapping<std::int64_t> {
  using Type = std::uint64_t;
};
template <class T>
using W = typename Wrapping<T>::Type;

struct Add {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<W<T>>(a) + static_cast<W<T>>(b));
  }
};
struct Sub {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<W<T>>(a) - static_cast<W<T>>(b));
  }
};
struct Mul {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<W<T>>(a) * static_cast<W<T>>(b));
  }
};
struct Div {
  template <class T>
  static T f(T a, T b) {
    return a / b;
  }
};

// After merging, a row repeats at most one of its operands.
template <class F, class T>
void row(std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, T* y) {
  if (a_step == 0) {
    const T value = *a;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F::f(value, b[i]);
  } else if (b_step == 0) {
    const T value = *b;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F::f(a[i], value);
  } else {
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F::f(a[i], b[i]);
  }
}

template <class F, class T>
void binary(const Launch& launch) {
  const T* a = pointer<const T>(launch.in[0]);
  const T* b = pointer<const T>(launch.in[1]);
  T* y = pointer<T>(launch.out[0]);
  const Loops<2> loops = broadcast_loops<2>(launch.out[0], launch.in);
  parallel_ranges(launch.out[0].size, grain, [&](std::int64_t begin, std::int64_t end) {
    loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
      row<F>(count, a + offset[0], loops.inner_stride(0), b + offset[1], loops.inner_stride(1), y + first);
    });
  });
}

template <class F>
void arithmetic(const Launch& launch) {
  visit_numeric(launch.out[0].dtype, [&](auto zero) { binary<F, decltype(zero)>(launch); });
}

}  // namespace

void add_kernel(const Launch& launch) { arithmetic<Add>(launch); }
void sub_kernel(const Launch& launch) { arithmetic<Sub>(launch); }
void mul_kernel(const Launch& launch) { arithmetic<Mul>(launch); }
void div_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) { binary<Div, decltype(zero)>(launch); });
}

}  // namespace edfcore::EDF_ISA
