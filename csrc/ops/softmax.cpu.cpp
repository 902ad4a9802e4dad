// CPU kernels of softmax, log_softmax and their derivatives.
#include "ops/softmax_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

std::int64_t classes(const View& x) { return x.dims[x.rank - 1]; }
std::int64_t rows_of(const View& x) { return x.size > 0 ? x.size / classes(x) : 0; }

}  // namespace

void softmax_kernel(const Launch& launch) {
  const std::int64_t n = classes(launch.in[0]);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    T* p = pointer<T>(launch.out[0]);
    short_or_long_rows<T>(
        rows_of(launch.in[0]), n, softmax_work,
        [=](auto& few, std::int64_t row, std::int64_t count, std::int64_t room) {
          few.load(x + row * n, n, count, room);
          softmax_short(few, n);
          few.store(p + row * n, n, count);
        },
        [=](std::int64_t begin, std::int64_t end) {
          rows_of_powers<true>(x, p, n, begin, end, [=](std::int64_t row, T, Powers<T>& powers) {
            const Divisor total(static_cast<T>(powers.total));
            powers.map(p + row * n, [=](T e) { return total.divide(e); });
          });
        },
        few_short);
  });
}

void log_softmax_kernel(const Launch& launch) {
  const std::int64_t n = classes(launch.in[0]);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = pointer<const T>(launch.in[0]);
    T* y = pointer<T>(launch.out[0]);
    short_or_long_rows<T>(
        rows_of(launch.in[0]), n, softmax_work,
        [=](auto& few, std::int64_t row, std::int64_t count, std::int64_t room) {
          few.load(x + row * n, n, count, room);
          few.subtract(n, few.max(n));
          SameRows<decltype(few)> powers;
          powers.copy(n, few);
          few.subtract(n, log_sum_exp_short(powers, n).all());
          few.store(y + row * n, n, count);
        },
        [=](std::int64_t begin, std::int64_t end) {
          rows_of_powers<false>(x, y, n, begin, end, [=](std::int64_t row, T top, Powers<T>& powers) {
            const T log_sum = static_cast<T>(powers.log);
            EDF_INDEPENDENT
            for (std::int64_t i = row * n; i < (row + 1) * n; ++i) y[i] = (x[i] - top) - log_sum;
          });
        },
        few_short);
  });
}

void softmax_grad_kernel(const Launch& launch) {
  const std::int64_t n = classes(launch.in[0]);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* p = pointer<const T>(launch.in[1]);
    T* out = pointer<T>(launch.out[0]);
    short_or_long_rows<T>(
        rows_of(launch.in[0]), n, softmax_work,
        [=](auto& few, std::int64_t row, std::int64_t count, std::int64_t room) {
          SameRows<decltype(few)> ps;
          few.load(g + row * n, n, count, room);
          ps.load(p + row * n, n, count, room);
          const auto dot = few.dot(n, ps).all();
          for (std::int64_t c = 0; c < n; ++c) few.put(c, ps.get(c) * (few.get(c) - dot));
          few.store(out + row * n, n, count);
        },
        [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t first = begin * n; first < end * n; first += n) {
            const T dot = static_cast<T>(dot_of(g + first, p + first, n));
            EDF_INDEPENDENT
            for (std::int64_t i = first; i < first + n; ++i) out[i] = p[i] * (g[i] - dot);
          }
        },
        few_short);
  });
}

void log_softmax_grad_kernel(const Launch& launch) {
  const std::int64_t n = classes(launch.in[0]);
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* l = pointer<const T>(launch.in[1]);
    T* out = pointer<T>(launch.out[0]);
    short_or_long_rows<T>(
        rows_of(launch.in[0]), n, softmax_work,
        [=](auto& few, std::int64_t row, std::int64_t count, std::int64_t room) {
          SameRows<decltype(few)> ps;
          few.load(g + row * n, n, count, room);
          ps.load(l + row * n, n, count, room);
          exp_short(ps, n);
          const auto total = few.sum(n).all();
          for (std::int64_t c = 0; c < n; ++c) few.put(c, few.get(c) - ps.get(c) * total);
          few.store(out + row * n, n, count);
        },
        [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t first = begin * n; first < end * n; first += n) {
            const T total = static_cast<T>(sum_of(g + first, n));
            EDF_INDEPENDENT
            for (std::int64_t i = first; i < first + n; ++i) out[i] = g[i] - exp_(l[i]) * total;
          }
        },
        few_short);
  });
}

}  // namespace edfcore::EDF_ISA
