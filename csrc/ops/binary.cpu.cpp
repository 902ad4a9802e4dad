// CPU kernels of the ops of two operands.
#include "ops/stream_cpu.h"
#include "ops/strided_cpu.h"

#include "ops/binary.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t grain = 16384, pow_grain = 4096;  // a power costs tens of cycles

// After merging, a row repeats at most one of its operands.
template <class F, class T>
void row(std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, T* y) {
  if (a_step == 0) {
    const T value = *a;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F()(value, b[i]);
  } else if (b_step == 0) {
    const T value = *b;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F()(a[i], value);
  } else {
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = F()(a[i], b[i]);
  }
}

template <class F, class T>
void binary(const Launch& launch, std::int64_t grain) {
  const T* a = pointer<const T>(launch.in[0]);
  const T* b = pointer<const T>(launch.in[1]);
  const Loops<2> loops = broadcast_loops<2>(launch.out[0], launch.in);
  elementwise_ranges<T>(launch, grain, [&](std::int64_t begin, std::int64_t end, T* to) {
    loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
      row<F>(count, a + offset[0], loops.inner_stride(0), b + offset[1], loops.inner_stride(1),
             to + (first - begin));
    });
  });
}

template <class F>
void arithmetic(const Launch& launch) {
  visit_numeric(launch.out[0].dtype, [&](auto zero) { binary<F, decltype(zero)>(launch, grain); });
}

template <class F>
void floating(const Launch& launch, std::int64_t grain) {
  visit_floating(launch.out[0].dtype, [&](auto zero) { binary<F, decltype(zero)>(launch, grain); });
}

// out = f(g, a, b), where a and b broadcast to the shape of g.
template <class F>
void partial(const Launch& launch, std::int64_t grain, const F& f) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* a = pointer<const T>(launch.in[1]);
    const T* b = pointer<const T>(launch.in[2]);
    const Loops<3> loops = broadcast_loops<3>(launch.out[0], launch.in);
    const std::int64_t a_step = loops.inner_stride(1), b_step = loops.inner_stride(2);
    elementwise_ranges<T>(launch, grain, [&](std::int64_t begin, std::int64_t end, T* y) {
      loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
        const T *gs = g + offset[0], *as = a + offset[1], *bs = b + offset[2];
        T* to = y + (first - begin);
        if (a_step != 0 && b_step != 0) {
          EDF_INDEPENDENT
          for (std::int64_t i = 0; i < count; ++i) to[i] = f(gs[i], as[i], bs[i]);
        } else if (a_step != 0) {
          const T value = *bs;
          EDF_INDEPENDENT
          for (std::int64_t i = 0; i < count; ++i) to[i] = f(gs[i], as[i], value);
        } else {
          const T value = *as;
          EDF_INDEPENDENT
          for (std::int64_t i = 0; i < count; ++i) to[i] = f(gs[i], value, bs[i * b_step]);
        }
      });
    });
  });
}

}  // namespace

void add_kernel(const Launch& launch) { arithmetic<Add>(launch); }
void sub_kernel(const Launch& launch) { arithmetic<Sub>(launch); }
void mul_kernel(const Launch& launch) { arithmetic<Mul>(launch); }
void div_kernel(const Launch& launch) { floating<Div>(launch, grain); }
void pow_kernel(const Launch& launch) { floating<Power>(launch, pow_grain); }
void maximum_kernel(const Launch& launch) { arithmetic<Maximum>(launch); }
void minimum_kernel(const Launch& launch) { arithmetic<Minimum>(launch); }

void pow_partial_kernel(const Launch& launch) {
  const int to_a = static_cast<int>(launch.attrs->ints[0]), to_b = static_cast<int>(launch.attrs->ints[1]);
  if (to_b == 0)
    partial(launch, pow_grain, PowerPartial<1>{to_a, 0});
  else
    partial(launch, pow_grain, PowerPartial<max_pow_order + 1>{to_a, to_b});
}

void greater_share_kernel(const Launch& launch) { partial(launch, grain, GreaterShare{}); }

}  // namespace edfcore::EDF_ISA
