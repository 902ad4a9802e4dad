// Formulas of binary ops: written once here, for every device and instruction set.
#pragma once

namespace edfcore {

inline constexpr int max_pow_order = 7;  // how often a power can be differentiated to its exponent

}  // namespace edfcore

#ifdef EDF_ISA  // inside a kernel file

#include "ops/elementwise.h"

namespace edfcore::EDF_ISA {

EDF_HD inline float pow_(float a, float b) { return powf(a, b); }
EDF_HD inline double pow_(double a, double b) { return ::pow(a, b); }

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
  EDF_HD T operator()(T a, T b) const {
    return static_cast<T>(static_cast<W<T>>(a) + static_cast<W<T>>(b));
  }
};
struct Sub {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return static_cast<T>(static_cast<W<T>>(a) - static_cast<W<T>>(b));
  }
};
struct Mul {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return static_cast<T>(static_cast<W<T>>(a) * static_cast<W<T>>(b));
  }
};
struct Div {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return a / b;
  }
};

// NaN wins, as in NumPy.
struct Maximum {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Minimum {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

// g to the greater of a and b, to both where one is NaN, and half of it to each where they are equal.
struct GreaterShare {
  template <class T>
  EDF_HD T operator()(T g, T a, T b) const {
    return a == b ? g * T(0.5) : a < b ? T(0) : g;
  }
};

struct Power {
  template <class T>
  EDF_HD T operator()(T a, T b) const {
    return b == T(2) ? a * a : b == T(1) ? a : pow_(a, b);
  }
};

// The derivative of a^b, `to_a` times to a and then `to_b` times to b, is
//     a^(b - to_a) sum_k to_b! / (to_b - k)! c_k (ln a)^(to_b - k),
// where sum_k c_k e^k = (b + e) (b + e - 1) ... (b + e - to_a + 1). A sum that is zero wins over an infinite
// power, and where a is zero and its power finite, its logarithm counts as zero. Terms > to_b.
template <int Terms>
struct PowerPartial {
  int to_a, to_b;

  template <class T>
  EDF_HD T operator()(T g, T a, T b) const {
    T c[Terms] = {T(1)};
    for (int m = 0; m < to_a; ++m) {
      for (int k = Terms - 1; k > 0; --k) c[k] = c[k] * (b - T(m)) + c[k - 1];
      c[0] = c[0] * (b - T(m));
    }
    const T rest = b - T(to_a);
    T log_a = T(0), sum = c[0];
    if (Terms > 1 && to_b > 0 && !(a == T(0) && rest >= T(0))) log_a = log_(a);
    T falling = T(1);
    for (int k = 1; k < Terms; ++k) {
      if (k > to_b) continue;  // not break: with every k written out, c stays in registers
      falling = falling * T(to_b - k + 1);
      sum = sum * log_a + falling * c[k];
    }
    return sum == T(0) ? T(0) : g * (sum * Power()(a, rest));
  }
};

}  // namespace edfcore::EDF_ISA

#endif  // EDF_ISA
