// The ops of two operands on a CUDA device, with NumPy's broadcasting.
#include "ops/formulas_cuda.h"

namespace edfcore::cuda {

namespace {

template <class F>
void map_numeric(const Launch& l) {
  if (is_half(l.out[0].dtype)) return map_any_floating<2>(l, [](auto) { return F{}; });
  visit_numeric(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    map<T, T, 2>(l, F{}, l.out[0], l.in);
  });
}

template <class F>
void map_floating(const Launch& l) {
  map_any_floating<2>(l, [](auto) { return F{}; });
}

template <class F>
void map_partial(const Launch& l, const F& f) {
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    map<T, T, 3>(l, f, l.out[0], l.in);
  });
}

}  // namespace

void add_kernel(const Launch& l) { map_numeric<Add>(l); }
void sub_kernel(const Launch& l) { map_numeric<Sub>(l); }
void mul_kernel(const Launch& l) { map_numeric<Mul>(l); }
void div_kernel(const Launch& l) { map_floating<Div>(l); }
void pow_kernel(const Launch& l) { map_floating<Power>(l); }
void maximum_kernel(const Launch& l) { map_numeric<Maximum>(l); }
void minimum_kernel(const Launch& l) { map_numeric<Minimum>(l); }

void pow_partial_kernel(const Launch& l) {
  const int to_a = static_cast<int>(l.attrs->ints[0]), to_b = static_cast<int>(l.attrs->ints[1]);
  if (to_b == 0)
    map_partial(l, PowerPartial<1>{to_a, 0});
  else
    map_partial(l, PowerPartial<max_pow_order + 1>{to_a, to_b});
}

void greater_share_kernel(const Launch& l) { map_partial(l, GreaterShare{}); }

}  // namespace edfcore::cuda
