// Elementwise unary ops: each formula and its derivatives are written once here, for every device and
// instruction set. A new activation is a functor below and one word in this list.
#pragma once

// The third word says what the derivatives read of x and y = f(x): a plan need not keep the other.

// clang-format off
#define EDF_UNARY_OPS(X)                                                                        \
  X(neg, Neg, none) X(exp, Exp, y) X(log, Log, x) X(sqrt, Sqrt, y) X(square, Square, x)         \
  X(relu, Relu, y) X(sigmoid, Sigmoid, y) X(tanh, Tanh, y) X(softplus, Softplus, x)             \
  X(abs, Abs, x) X(gelu, Gelu, x) X(silu, Silu, x)
// clang-format on

#ifdef EDF_ISA  // inside a kernel file: the formulas, in that file's own namespace

#include <math.h>

#include "core/kernel.h"

namespace edfcore::EDF_ISA {

// f(x) is the value, df(x, y) its derivative where y = f(x), d2f(x, y) the second derivative.
// T is float or double; `T(1)` keeps constants in T.

// x between -bound and bound; NaN stays NaN.
template <class T>
EDF_HD inline T within(T x, T bound) {
  return x < -bound ? -bound : x > bound ? bound : x;
}

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
    const T e = exp_(-abs_(x));
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
    const T e = exp_(-abs_(x));
    return (x < T(0) ? T(0) : x) + log1p_(e);
  }
  template <class T> EDF_HD static T df(T x, T) { return Sigmoid::f(x); }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T s = Sigmoid::f(x);
    return s * (T(1) - s);
  }
};

struct Abs {  // with derivative 0 at 0
  template <class T> EDF_HD static T f(T x) { return abs_(x); }
  template <class T> EDF_HD static T df(T x, T) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x - x; }
  template <class T> EDF_HD static T d2f(T, T) { return T(0); }
};

struct Gelu {  // x P(x), where P is the normal distribution; beyond 40 its tail is 0 in every dtype
  // e^(-x x / 2), with the rounding of x x made good: far out it would cost hundreds of units.
  template <class T> EDF_HD static T bell(T x) {
    const T square = x * x, lost = lost_in_square(x, square), e = exp_(T(-0.5) * square);
    return e - e * (T(0.5) * lost);
  }
  // P(-x) e^(x x / 2) (1 + c x) is a polynomial in another variable, within 3e-8 of floats and 2e-18 of doubles:
  // erfc would lose far out what bell saves, and is slow.
  EDF_HD static float scaled(float u) {
    return polynomial(u, 2.53244281e-1f, 1.71495810e-1f, 7.10989460e-2f, 1.02338511e-2f, -5.10875974e-3f,
                      -1.75433443e-3f, 6.90080866e-4f, 2.13968553e-4f, -1.13851282e-4f);
  }
  EDF_HD static double scaled(double u) {
    return polynomial(u, 0.18882128260393788, 0.15197416049297302, 0.09678435018555372, 0.046630464489914696,
                      0.015099143722729287, 0.0018850472416694218, -0.0008699230917410901, -0.0004077046142232884,
                      3.333607687754694e-05, 5.7773732499378906e-05, -4.770564040392518e-07,
                      -8.786166149437357e-06, 1.7913196644153596e-07, 1.4800314321685798e-06,
                      -1.5732980195698607e-07, -2.5537935919683675e-07, 6.778486536761131e-08,
                      3.875853144455063e-08, -2.11690660035089e-08, -3.3695462726799878e-09,
                      4.790450218181361e-09, -4.330316360492174e-10, -5.994882087713273e-10,
                      1.6541054004294706e-10);
  }
  // w P(-x) for x >= 0
  template <class T> EDF_HD static T tail(T w, T x) {
    const T c = sizeof(T) == 4 ? T(0.35) : T(0.25), r = T(1) / (T(1) + c * x);
    return w * (scaled(T(2) * r - T(1)) * r) * bell(x);
  }
  template <class T> EDF_HD static T below(T x) { return x < T(0) ? tail(T(1), -x) : T(1) - tail(T(1), x); }

  template <class T> EDF_HD static T f(T x) {
    const T c = within(x, T(40)), t = tail(c, abs_(c));
    return c < T(0) ? t : x - t;
  }
  template <class T> EDF_HD static T df(T x, T) {
    const T c = within(x, T(40));
    return below(c) + c * (T(0.39894228040143267794) * bell(c));
  }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T c = within(x, T(40));
    return (T(2) - c * c) * (T(0.39894228040143267794) * bell(c));
  }
};

struct Silu {  // x sigmoid(x); beyond 800 the sigmoid is 0 or 1 in every dtype
  template <class T> EDF_HD static T f(T x) {
    const T c = within(x, T(800));
    const bool far = c < T(-64);  // where e^c may be too small a number for its full precision: e^(c + 32)
    const T e = exp_(far ? c + T(32) : -abs_(c));
    const T y = (c < T(0) ? c * e : x) / (far ? T(1) : T(1) + e);
    return far ? y * T(1.2664165549094175723e-14) : y;
  }
  template <class T> EDF_HD static T df(T x, T) {
    const T c = within(x, T(800)), s = Sigmoid::f(c);
    return s * (T(1) + c * (T(1) - s));
  }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T c = within(x, T(800)), s = Sigmoid::f(c);
    return s * (T(1) - s) * (T(2) + c * (T(1) - T(2) * s));
  }
};
// clang-format on

// Functors that hold what the op was asked for beside x; of (g, x) they give the gradient.
template <class T>
struct LeakyRelu {
  T slope;
  explicit LeakyRelu(const Attrs& attrs) : slope(static_cast<T>(attrs.scalar)) {}
  EDF_HD T operator()(T x) const { return x > T(0) ? x : x * slope; }
  EDF_HD T operator()(T g, T x) const { return x > T(0) ? g : g * slope; }
};

template <class T>
struct Clip {  // NaN stays NaN; where the bounds cross, the upper one wins
  T low, high;
  explicit Clip(const Attrs& attrs)
      : low(static_cast<T>(attrs.scalar)), high(static_cast<T>(attrs.scalar2)) {}
  EDF_HD T operator()(T x) const {
    const T y = x < low ? low : x;
    return y > high ? high : y;
  }
  EDF_HD T operator()(T g, T x) const { return low <= x && x <= high ? g : T(0); }
};

}  // namespace edfcore::EDF_ISA

#endif  // EDF_ISA
