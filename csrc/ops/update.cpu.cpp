// CPU kernels of the updates. After bad data no parameter moves, so that a step is all or nothing.
#include "ops/kernel_cpu.h"

#include "ops/update.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

namespace {

template <class Rule, class T>
Rule rule_of(const Launch& launch) {
  return {static_cast<T>(launch.attrs->scalar), static_cast<T>(launch.attrs->scalar2)};
}

void count_step(const Launch& launch) { ++*pointer<std::int64_t>(launch.in[launch.n_in - 1]); }

}  // namespace

void sgd_kernel(const Launch& launch) {
  if (launch.status->code != Status::ok) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = pointer<T>(launch.out[0]);
    const T* g = pointer<const T>(launch.in[1]);
    const auto rule = rule_of<Sgd<T>, T>(launch);
    parallel_ranges(launch.out[0].size, 16384, [=](std::int64_t begin, std::int64_t end) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) rule(p[i], g[i]);
    });
  });
}

void momentum_kernel(const Launch& launch) {
  if (launch.status->code != Status::ok) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto rule = rule_of<Momentum<T>, T>(launch);
    T* p = pointer<T>(launch.out[0]);
    const T* g = pointer<const T>(launch.in[1]);
    T* m = pointer<T>(launch.in[2]);
    parallel_ranges(launch.out[0].size, 16384, [=](std::int64_t begin, std::int64_t end) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) rule(p[i], g[i], m[i]);
    });
  });
  count_step(launch);
}

void adam_kernel(const Launch& launch) {
  if (launch.status->code != Status::ok) return;
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto rule = rule_of<Adam<T>, T>(launch);
    const T* h = pointer<const T>(launch.in[4]);
    const T beta1 = h[0], beta2 = h[1], epsilon = h[2];
    T* p = pointer<T>(launch.out[0]);
    const T* g = pointer<const T>(launch.in[1]);
    T* m = pointer<T>(launch.in[2]);
    T* v = pointer<T>(launch.in[3]);
    parallel_ranges(launch.out[0].size, 8192, [=](std::int64_t begin, std::int64_t end) {
      EDF_INDEPENDENT
      for (std::int64_t i = begin; i < end; ++i) rule(p[i], g[i], m[i], v[i], beta1, beta2, epsilon);
    });
  });
  count_step(launch);
}

}  // namespace edfcore::EDF_ISA
