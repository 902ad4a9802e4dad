// CPU kernels of where and its gradient. Values are moved by width and never looked at.
#include "ops/stream_cpu.h"
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t grain = 16384;

// Calls body(C{}) with the integer type of a condition; a bool is a byte of 0 or 1.
template <class Body>
void visit_condition(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::i32:
      return body(std::int32_t{});
    case DType::i64:
      return body(std::int64_t{});
    default:
      return body(std::uint8_t{});
  }
}

// Steps are 0 or 1; the loops with steps of 1 and those over one repeated number are the ones to be fast.
template <class C, class T>
void row(std::int64_t n, const C* c, std::int64_t c_step, const T* a, std::int64_t a_step, const T* b,
         std::int64_t b_step, T* y) {
  if (c_step != 0 && a_step != 0 && b_step != 0) {
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = c[i] != 0 ? a[i] : b[i];
  } else if (c_step != 0 && a_step != 0) {
    const T other = *b;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = c[i] != 0 ? a[i] : other;
  } else if (c_step != 0 && b_step != 0) {
    const T other = *a;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = c[i] != 0 ? other : b[i];
  } else {
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = c[i * c_step] != 0 ? a[i * a_step] : b[i * b_step];
  }
}

}  // namespace

void where_kernel(const Launch& launch) {
  visit_condition(launch.in[0].dtype, [&](auto condition) {
    visit_bits(launch.out[0].dtype, [&](auto bits) {
      using C = decltype(condition);
      using T = decltype(bits);
      const C* c = pointer<const C>(launch.in[0]);
      const T* a = pointer<const T>(launch.in[1]);
      const T* b = pointer<const T>(launch.in[2]);
      const Loops<3> loops = broadcast_loops<3>(launch.out[0], launch.in);
      elementwise_ranges<T>(launch, grain, [&](std::int64_t begin, std::int64_t end, T* y) {
        loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
          row(count, c + offset[0], loops.inner_stride(0), a + offset[1], loops.inner_stride(1),
              b + offset[2], loops.inner_stride(2), y + (first - begin));
        });
      });
    });
  });
}

void where_grad_kernel(const Launch& launch) {
  visit_condition(launch.in[1].dtype, [&](auto condition) {
    visit_floating(launch.out[0].dtype, [&](auto zero) {
      using C = decltype(condition);
      using T = decltype(zero);
      const T* g = pointer<const T>(launch.in[0]);
      const C* c = pointer<const C>(launch.in[1]);
      const bool side = launch.attrs->ints[0] != 0;
      const Loops<2> loops = broadcast_loops<2>(launch.out[0], launch.in);
      const T none = 0;
      elementwise_ranges<T>(launch, grain, [&](std::int64_t begin, std::int64_t end, T* y) {
        loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
          const T *taken = side ? g + offset[0] : &none, *left = side ? &none : g + offset[0];
          row(count, c + offset[1], loops.inner_stride(1), taken, side ? 1 : 0, left, side ? 0 : 1,
              y + (first - begin));
        });
      });
    });
  });
}

}  // namespace edfcore::EDF_ISA
