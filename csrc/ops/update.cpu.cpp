// CPU kernels of the updates. After bad data no parameter moves, so that a step is all or nothing.
#include "ops/kernel_cpu.h"

namespace edfcore::EDF_ISA {

void sgd_kernel(const Launch& launch) {
  if (launch.status->code != Status::ok) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = pointer<T>(launch.out[0]);
    const T* g = pointer<const T>(launch.in[1]);
    const T rate = static_cast<T>(launch.attrs->scalar);
    parallel_ranges(launch.out[0].size, 16384, [=](std::int64_t begin, std::int64_t end) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) p[i] -= rate * g[i];
    });
  });
}

}  // namespace edfcore::EDF_ISA
