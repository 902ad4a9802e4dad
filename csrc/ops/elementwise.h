// Elementwise unary ops: each formula and its derivatives are written once here, for every device and
// instruction set. A new activation is a functor below and one word in this list.
#pragma once

// The third word says what the derivatives read of x and y = f(x): a plan need not keep the other.

// clang-format off
#define EDF_UNARY_OPS(X)                                                                        \
  X(neg, Neg, none) X(exp, Exp, y) X(log, Log, x) X(sqrt, Sqrt, y) X(square, Square, x)         \
  X(relu, Relu, y) X(sigmoid, Sigmoid, y) X(tanh, Tanh, y) X(softplus, Softplus, x)
// clang-format on

#ifdef EDF_ISA  // inside a kernel file: the formulas, in that file's own namespace

#include <math.h>

namespace edfcore::EDF_ISA {

// f(x) is the value, df(x, y) its derivative where y = f(x), d2f(x, y) the second derivative.
// T is float or double; `T(1)` keeps constants in T.

// exp and its kin by dtype: overloads of our own, since std:: ones are inline functions.
EDF_HD inline float exp_(float x) { return expf(x); }
EDF_HD inline double exp_(double x) { return ::exp(x); }
EDF_HD inline float log_(float x) { return logf(x); }
EDF_HD inline double log_(double x) { return ::log(x); }
EDF_HD inline float log1p_(float x) { return log1pf(x); }
EDF_HD inline double log1p_(double x) { return ::log1p(x); }
EDF_HD inline float sqrt_(float x) { return sqrtf(x); }
EDF_HD inline double sqrt_(double x) { return ::sqrt(x); }
EDF_HD inline float tanh_(float x) { return tanhf(x); }
EDF_HD inline double tanh_(double x) { return ::tanh(x); }

// clang-format off
struct Neg {
  template <class T> EDF_HD static T f(T x) { return -x; }
  template <class T> EDF_HD static T df(T, T) { return T(-1); }
  template <class T> EDF_HD static T d2f(T, T) { return T(0); }
};

struct Exp {
  template <class T> EDF_HD static T f(T x) { return exp_(x); }
  template <class T> EDF_HD static T df(T, T y) { return y; }
  template <class T> EDF_HD static T d2f(T, T y) { return y; }
};

struct Log {
  template <class T> EDF_HD static T f(T x) { return log_(x); }
  template <class T> EDF_HD static T df(T x, T) { return T(1) / x; }
  template <class T> EDF_HD static T d2f(T x, T) { return T(-1) / (x * x); }
};

struct Sqrt {
  template <class T> EDF_HD static T f(T x) { return sqrt_(x); }
  template <class T> EDF_HD static T df(T, T y) { return T(0.5) / y; }
  template <class T> EDF_HD static T d2f(T, T y) { return T(-0.25) / (y * y * y); }
};

struct Square {
  template <class T> EDF_HD static T f(T x) { return x * x; }
  template <class T> EDF_HD static T df(T x, T) { return T(2) * x; }
  template <class T> EDF_HD static T d2f(T, T) { return T(2); }
};

struct Relu {  // NaN stays NaN, as in NumPy's maximum
  template <class T> EDF_HD static T f(T x) { return x < T(0) ? T(0) : x; }
  template <class T> EDF_HD static T df(T, T y) { return y > T(0) ? T(1) : T(0); }
  template <class T> EDF_HD static T d2f(T, T) { return T(0); }
};

struct Sigmoid {  // the exponent is never positive, so nothing overflows
  template <class T> EDF_HD static T f(T x) {
    const T e = exp_(x < T(0) ? x : -x);
    return (x < T(0) ? e : T(1)) / (T(1) + e);
  }
  template <class T> EDF_HD static T df(T, T y) { return y * (T(1) - y); }
  template <class T> EDF_HD static T d2f(T, T y) { return y * (T(1) - y) * (T(1) - T(2) * y); }
};

struct Tanh {
  template <class T> EDF_HD static T f(T x) { return tanh_(x); }
  template <class T> EDF_HD static T df(T, T y) { return T(1) - y * y; }
  template <class T> EDF_HD static T d2f(T, T y) { return T(-2) * y * (T(1) - y * y); }
};

struct Softplus {  // the exponent is never positive, so nothing overflows
  template <class T> EDF_HD static T f(T x) {
    const T e = exp_(x < T(0) ? x : -x);
    return (x < T(0) ? T(0) : x) + log1p_(e);
  }
  template <class T> EDF_HD static T df(T x, T) { return Sigmoid::f(x); }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T s = Sigmoid::f(x);
    return s * (T(1) - s);
  }
};
// clang-format on

}  // namespace edfcore::EDF_ISA

#endif  // EDF_ISA
