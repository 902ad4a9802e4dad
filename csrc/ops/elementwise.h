// Elementwise unary ops: each formula and its derivatives are written once here, for every device and
// instruction set. A new activation is a functor below and one word in this list.
#pragma once

#include <stdint.h>

// The third word says what the derivatives read of x and y = f(x): a plan need not keep the other.

// clang-format off
#define EDF_UNARY_OPS(X)                                                                        \
  X(neg, Neg, none) X(exp, Exp, y) X(log, Log, x) X(sqrt, Sqrt, y) X(square, Square, x)         \
  X(relu, Relu, y) X(sigmoid, Sigmoid, y) X(tanh, Tanh, y) X(softplus, Softplus, x)             \
  X(abs, Abs, x) X(gelu, Gelu, x) X(silu, Silu, x)
// clang-format on

// clang-format off
// Those that a product on a GPU may end with, and their gradients.
#define EDF_ENDINGS(X) \
  X(relu, Relu, y) X(sigmoid, Sigmoid, y) X(tanh, Tanh, y) X(softplus, Softplus, x) X(gelu, Gelu, x) X(silu, Silu, x)
// clang-format on

namespace edfcore {

// What ops do that a kernel of others can do, too.
// clang-format off
enum class Formula : int32_t {
  none,
  descent,               // of a parameter along a product
  log_loss_scores,       // of a product's rows
  log_loss_scores_both,  // with the gradient
  column_sum,            // of a product's right operand
  column_descent,        // along those
  add, sub, mul, div, pow, maximum, minimum, greater_share,
  scale, leaky_relu, leaky_relu_grad, clip, clip_grad,
#define EDF_FORMULA(name, functor, reads) name, name##_grad,
  EDF_UNARY_OPS(EDF_FORMULA)
#undef EDF_FORMULA
};
// clang-format on

inline constexpr int ending_columns = 16;  // most columns of a product that ends with a loss

}  // namespace edfcore

#ifdef EDF_ISA  // inside a kernel file: the formulas, in that file's own namespace

#include <math.h>

#include "core/kernel.h"

namespace edfcore::EDF_ISA {

// f(x) is the value, df(x, y) its derivative where y = f(x), d2f(x, y) the second derivative.
// T is float or double; `T(1)` keeps constants in T.

// x, or the bound that it is beyond; NaN stays NaN. In two steps, which become two instructions.
template <class T>
EDF_HD inline T between(T low, T x, T high) {
  const T above = x < low ? low : x;
  return above > high ? high : above;
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

struct Sigmoid {  // 1 / (1 + e^-x)
  // For x that is not beyond `low` or `high`, where it is 0 or 1, also times x: scale / (d + lost), and r is 1 / d.
  template <class T> struct Quotient {
    static constexpr T low = sizeof(T) == 4 ? T(-110) : T(-755), high = sizeof(T) == 4 ? T(87) : T(708);
    T d, lost, r, scale;

    EDF_HD explicit Quotient(T x) {
      using F = Format<T>;
      const Exponential<T> e(-x);
      const bool far = e.n > F::step;  // where the result may be too small a number for its full precision
      scale = far ? F::step_down : T(1);
      const T power = power_of_two(far ? e.n - F::step : e.n) * e.part;
      const T most = power > scale ? power : scale, least = power > scale ? scale : power;
      d = most + least;
      lost = least - (d - most);
      r = T(1) / d;
    }
  };
  template <class T> EDF_HD static T bounded(T x) { return between(Quotient<T>::low, x, Quotient<T>::high); }

  template <class T> EDF_HD static T f(T x) {
    const Quotient<T> q(bounded(x));
    return (q.r - q.r * (q.r * q.lost)) * q.scale;
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

struct Gelu {  // x P(x), where P is the normal distribution; beyond `far` its tail is 0
  template <class T> static constexpr T far = sizeof(T) == 4 ? T(14.5) : T(39);

  // e^(-t t / 2), with the rounding of t t made good: far out it would cost hundreds of units.
  template <class T> EDF_HD static T bell(T t) {
    const T square = t * t, lost = fused(t, t, -square), e = exp_(T(-0.5) * square);
    return e - e * (T(0.5) * lost);
  }

  // t P(-t) e^(t t / 2) is a s for t >= 0, where a = t / (middle + t) and s = first + u more(u), a polynomial in
  // u = 1.125 - 2 a within 3e-8 of floats and 1e-17 of doubles: erfc would lose far out what is made good here.
  template <class T> static constexpr T middle = T(2.859375);
  template <class T> static constexpr T first = sizeof(T) == 4 ? T(0.665478051f) : T(0.6654780702504116);
  EDF_HD static float more(float u) {
    return polynomial(u, 0.440901577f, 0.191242516f, 0.0359302312f, -0.0109860217f, -0.00630388083f,
                      0.00131449173f, 0.000974935712f, -0.000399639568f, 3.10529576e-05f);
  }
  EDF_HD static double more(double u) {
    return polynomial(u, 0.44090157516871215, 0.19124090896584162, 0.0359305836321355, -0.010965106319875358,
                      -0.006318369611313548, 0.0012268491719913837, 0.0010826358311902995,
                      -0.00030787555501041744, -0.00018510445545073765, 0.00010181069726160723,
                      2.0593990200723013e-05, -3.106872594512097e-05, 4.32772943857682e-06,
                      7.002959973390626e-06, -3.934669386977833e-06, -4.3906236954540164e-07,
                      1.3945364099134822e-06, -4.953722729572651e-07, -2.0548439303479806e-07,
                      2.3722649771075293e-07, -4.564053465838319e-08, -3.558015108206535e-08,
                      2.1727880411975804e-08, -3.698484726945463e-09);
  }

  // t P(-t): a product of three factors, whose roundings are made good together. Of what u has lost, few digits of
  // the polynomial's slope are enough, and of a's loss, few of what it is of the product's.
  template <class T> EDF_HD static T tail(T t) {
    const T square = t * t, d = middle<T> + t, a = t / d, b = T(1) - a, u = multiply_add(T(-2), a, T(1.125));
    const Exponential<T> e(T(-0.5) * square);
    const T w = u * more(u), s = first<T> + w, p = a * e.part;
    const T of_a = (fused(-a, d, t) - a * (t - (d - middle<T>))) * (b * b * b) * (T(1) / middle<T>);
    const T of_u = multiply_add(T(-2), a, T(1.125) - u), of_square = fused(t, t, -square);
    const T of_p = fused(a, e.part, -p) + a * e.low + of_a + p * (T(0.65) * of_u - T(0.5) * of_square);
    const T y = fused(p, s, of_p * s + p * (w - (s - first<T>)));
    return scaled_down(y, e.n);
  }

  template <class T> EDF_HD static T f(T x) {
    const T c = between(-far<T>, x, far<T>), t = tail(abs_(c));
    return c < T(0) ? -t : x - t;
  }
  template <class T> EDF_HD static T df(T x, T) {
    const T c = between(-far<T>, x, far<T>), t = abs_(c), a = t / (middle<T> + t), u = T(1.125) - T(2) * a;
    const T scaled = multiply_add(u, more(u), first<T>) * ((T(1) - a) * (T(1) / middle<T>));
    const T below = bell(t) * (scaled - T(0.39894228040143267794) * t);
    return c < T(0) ? below : T(1) - below;
  }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T c = between(-far<T>, x, far<T>);
    return (T(2) - c * c) * (T(0.39894228040143267794) * bell(c));
  }
};

struct Silu {  // x sigmoid(x)
  template <class T> EDF_HD static T f(T x) {
    const T c = Sigmoid::bounded(x);
    const Sigmoid::Quotient<T> q(c);
    const T lost = fused(-q.r, q.d, T(1)) - q.r * q.lost;  // of r, over r
    const T y = fused(c, q.r, c * q.r * lost) * q.scale;
    return x > c ? x : y;
  }
  template <class T> EDF_HD static T df(T x, T) {
    const T c = Sigmoid::bounded(x), s = Sigmoid::f(c);
    return s * (T(1) + c * (T(1) - s));
  }
  template <class T> EDF_HD static T d2f(T x, T) {
    const T c = Sigmoid::bounded(x), s = Sigmoid::f(c);
    return s * (T(1) - s) * (T(2) + c * (T(1) - T(2) * s));
  }
};
// clang-format on

// Functors that hold what the op was asked for beside x; of (g, x) they give the gradient.
template <class T>
struct LeakyRelu {
  T slope;
  template <class Numbers>
  EDF_HD explicit LeakyRelu(const Numbers& attrs) : slope(static_cast<T>(attrs.scalar)) {}
  EDF_HD T operator()(T x) const { return x > T(0) ? x : x * slope; }
  EDF_HD T operator()(T g, T x) const { return x > T(0) ? g : g * slope; }
};

template <class T>
struct Clip {  // NaN stays NaN; where the bounds cross, the upper one wins
  T low, high;
  template <class Numbers>
  EDF_HD explicit Clip(const Numbers& attrs)
      : low(static_cast<T>(attrs.scalar)), high(static_cast<T>(attrs.scalar2)) {}
  EDF_HD T operator()(T x) const {
    const T y = x < low ? low : x;
    return y > high ? high : y;
  }
  EDF_HD T operator()(T g, T x) const { return low <= x && x <= high ? g : T(0); }
};

}  // namespace edfcore::EDF_ISA

#endif  // EDF_ISA
