// CPU kernels of softmax, log_softmax and their derivatives.
#include "ops/softmax_cpu.h"

namespace edfcore::EDF_ISA {

void softmax_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    T* p = pointer<T>(launch.out[0]);
    softmax_rows(launch.in[0],
                 [=](std::int64_t first, std::int64_t n) { softmax_row(x + first, p + first, n); });
  });
}

void log_softmax_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    T* y = pointer<T>(launch.out[0]);
    softmax_rows(launch.in[0], [=](std::int64_t first, std::int64_t n) {
      const T top = max_of(x + first, n);
      const T log_sum = log_sum_exp_below(x + first, n, top);
      EDF_INDEPENDENT
      for (std::int64_t i = first; i < first + n; ++i) y[i] = (x[i] - top) - log_sum;
    });
  });
}

void softmax_grad_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* p = pointer<const T>(launch.in[1]);
    T* out = pointer<T>(launch.out[0]);
    softmax_rows(launch.in[0], [=](std::int64_t first, std::int64_t n) {
      const T dot = static_cast<T>(dot_of(g + first, p + first, n));
      EDF_INDEPENDENT
      for (std::int64_t i = first; i < first + n; ++i) out[i] = p[i] * (g[i] - dot);
    });
  });
}

void log_softmax_grad_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* l = pointer<const T>(launch.in[1]);
    T* out = pointer<T>(launch.out[0]);
    softmax_rows(launch.in[0], [=](std::int64_t first, std::int64_t n) {
      const T total = static_cast<T>(sum_of(g + first, n));
      EDF_INDEPENDENT
      for (std::int64_t i = first; i < first + n; ++i) out[i] = g[i] - exp_(l[i]) * total;
    });
  });
}

}  // namespace edfcore::EDF_ISA
