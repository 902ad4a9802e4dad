// Rules of the updates that keep something from step to step: written once, for every device and instruction
// set.
#pragma once

#include "ops/elementwise.h"

namespace edfcore::EDF_ISA {

template <class T>
struct Momentum {
  T rate, decay;

  explicit Momentum(const Launch& launch)
      : rate(static_cast<T>(launch.attrs->scalar)), decay(static_cast<T>(launch.attrs->scalar2)) {}
  EDF_HD void operator()(T& p, T g, T& m) const {
    m = decay * m + g;
    p -= rate * m;
  }
};

// With bias correction, as PyTorch has it (Kingma and Ba, 2015, algorithm 1).
template <class T>
struct Adam {
  T rate, correction;

  explicit Adam(const Launch& launch)
      : rate(static_cast<T>(launch.attrs->scalar)), correction(static_cast<T>(launch.attrs->scalar2)) {}
  EDF_HD void operator()(T& p, T g, T& m, T& v, T beta1, T beta2, T epsilon) const {
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * (g * g);
    p -= rate * (m / (sqrt_(v) / correction + epsilon));
  }
};

}  // namespace edfcore::EDF_ISA
