// Rules of the updates, for one element: written once, for every device and instruction set. Each holds the
// two numbers of its op, Attrs::scalar and Attrs::scalar2.
#pragma once

#include "ops/elementwise.h"

namespace edfcore::EDF_ISA {

template <class T>
struct Sgd {
  T rate, unused;

  EDF_HD void operator()(T& p, T g) const { p -= rate * g; }
};

template <class T>
struct Momentum {
  T rate, decay;

  EDF_HD void operator()(T& p, T g, T& m) const {
    m = decay * m + g;
    p -= rate * m;
  }
};

// With bias correction, as PyTorch has it (Kingma and Ba, 2015, algorithm 1).
template <class T>
struct Adam {
  T rate, correction;

  EDF_HD void operator()(T& p, T g, T& m, T& v, T beta1, T beta2, T epsilon) const {
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * (g * g);
    p -= rate * (m / (sqrt_(v) / correction + epsilon));
  }
};

}  // namespace edfcore::EDF_ISA
