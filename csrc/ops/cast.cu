// Casts on a CUDA device.
#include "ops/half_cuda.h"

namespace edfcore::cuda {

namespace {

// A bool is a byte of 0 or 1; its own type tells it from a uint8.
struct Bool {
  std::uint8_t byte;
};

template <class Body>
void visit_castable(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::b1:
      return body(Bool{});
    case DType::bf16:
    case DType::f16:
      return body(Half{});
    default:
      return visit_numeric(dtype, body);
  }
}

template <class Out>
struct Cast {
  bool from_bfloat, to_bfloat;

  template <class In>
  __device__ Out operator()(In x) const {
    if constexpr (std::is_same_v<In, Half> && std::is_same_v<Out, Half>) {
      return from_bfloat == to_bfloat ? x : narrow(wide(x, from_bfloat), to_bfloat);
    } else if constexpr (std::is_same_v<In, Out>) {
      return x;
    } else if constexpr (std::is_same_v<In, Bool>) {
      return (*this)(x.byte);
    } else if constexpr (std::is_same_v<In, Half>) {
      return (*this)(wide(x, from_bfloat));
    } else if constexpr (std::is_same_v<Out, Bool>) {
      return Bool{static_cast<std::uint8_t>(x != In(0))};
    } else if constexpr (std::is_same_v<Out, Half> && std::is_same_v<In, float>) {
      return narrow(x, to_bfloat);
    } else if constexpr (std::is_same_v<Out, Half> && std::is_same_v<In, std::int64_t>) {
      return narrow(rounded_to_odd(without_low_bits(x)), to_bfloat);
    } else if constexpr (std::is_same_v<Out, Half>) {
      return narrow(rounded_to_odd(static_cast<double>(x)), to_bfloat);
    } else if constexpr (std::is_floating_point_v<In> && std::is_same_v<Out, std::uint8_t>) {
      return static_cast<Out>(static_cast<std::int32_t>(x));  // as on the CPU: negative values wrap around
    } else {
      return static_cast<Out>(x);
    }
  }
};

}  // namespace

void cast_kernel(const Launch& l) {
  visit_castable(l.in[0].dtype, [&](auto from) {
    visit_castable(l.out[0].dtype, [&](auto to) {
      using In = decltype(from);
      using Out = decltype(to);
      const Cast<Out> convert{l.in[0].dtype == DType::bf16, l.out[0].dtype == DType::bf16};
      map<In, Out, 1>(l, convert, l.out[0], l.in);
    });
  });
}

void autocast_kernel(const Launch& l) { cast_kernel(l); }

}  // namespace edfcore::cuda
