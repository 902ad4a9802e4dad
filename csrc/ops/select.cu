// where and its gradient on a CUDA device. Values are moved by width and never looked at.
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

namespace {

// One thread an element. An operand that is null stands for zeros.
template <class C, class T>
__global__ void __launch_bounds__(block_threads)
    select(Broadcast<3> b, const C* condition, const T* taken, const T* left, T* out, std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  Division d{i, 0};
  std::int64_t offset[3] = {0, 0, 0};
  for (int axis = 0; axis < b.rank; ++axis) {
    d = axis + 1 < b.rank ? divide(d.quotient, b.dims[axis]) : Division{0, d.quotient};
    EDF_UNROLL
    for (int n = 0; n < 3; ++n) offset[n] += d.remainder * b.strides[n][axis];
  }
  const bool holds = condition[offset[0]] != C(0);
  const T* const from = holds ? taken : left;
  out[i] = from ? from[holds ? offset[1] : offset[2]] : T(0);
}

template <class T>
void select_by(const Launch& l, const View& condition, const View& taken, const View& left) {
  const View& out = l.out[0];
  if (out.size == 0) return;
  const View in[] = {condition, taken, left};
  const Broadcast<3> b = broadcast<3>(out, in);
  const auto go = [&](auto c) {
    using C = decltype(c);
    launch(select<C, T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream, b,
           pointer<const C>(condition), pointer<const T>(taken), pointer<const T>(left), pointer<T>(out),
           out.size);
  };
  if (condition.dtype == DType::b1)  // a byte of 0 or 1
    go(std::uint8_t{});
  else
    visit_index(condition.dtype, go);
}

}  // namespace

void where_kernel(const Launch& l) {
  visit_width(dtype_size(l.out[0].dtype),
              [&](auto t) { select_by<decltype(t)>(l, l.in[0], l.in[1], l.in[2]); });
}

void where_grad_kernel(const Launch& l) {
  const View &g = l.in[0], none{nullptr, g.dims, g.rank, g.dtype, g.size};
  const bool side = l.attrs->ints[0] != 0;
  visit_width(dtype_size(g.dtype),
              [&](auto t) { select_by<decltype(t)>(l, l.in[1], side ? g : none, side ? none : g); });
}

}  // namespace edfcore::cuda
