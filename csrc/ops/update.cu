// Parameter updates on a CUDA device.
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

namespace {

// The status is read on the device: a step in which a kernel met bad data updates nothing, though the host
// has not looked yet.
template <class T>
struct Descend {
  T rate;
  const Status* status;
  __device__ T operator()(T p, T g) const { return status->code != Status::ok ? p : p - rate * g; }
};

}  // namespace

void sgd_kernel(const Launch& l) {
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    map<T, T, 2>(l, Descend<T>{static_cast<T>(l.attrs->scalar), l.status}, l.out[0], l.in);
  });
}

}  // namespace edfcore::cuda
