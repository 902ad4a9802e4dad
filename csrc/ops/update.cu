// Parameter updates on a CUDA device.
#include "ops/half_cuda.h"
#include "ops/update.h"

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

template <class T>
__global__ void __launch_bounds__(block_threads)
    move_by_momentum(Momentum<T> rule, const Status* status, T* p, const T* g, T* m, std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i < size && status->code == Status::ok) rule(p[i], g[i], m[i]);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    move_by_adam(Adam<T> rule, const Status* status, T* p, const T* g, T* m, T* v, const T* h,
                 std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i < size && status->code == Status::ok) rule(p[i], g[i], m[i], v[i], h[0], h[1], h[2]);
}

}  // namespace

void momentum_kernel(const Launch& l) {
  const std::int64_t size = l.out[0].size;
  if (size == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    launch(move_by_momentum<T>, blocks_for(size, block_threads), block_threads, 0, l.stream, Momentum<T>(l),
           static_cast<const Status*>(l.status), pointer<T>(l.out[0]), pointer<const T>(l.in[1]),
           pointer<T>(l.in[2]), size);
  });
}

void adam_kernel(const Launch& l) {
  const std::int64_t size = l.out[0].size;
  if (size == 0) return;
  visit_floating(l.out[0].dtype, [&](auto t) {
    using T = decltype(t);
    launch(move_by_adam<T>, blocks_for(size, block_threads), block_threads, 0, l.stream, Adam<T>(l),
           static_cast<const Status*>(l.status), pointer<T>(l.out[0]), pointer<const T>(l.in[1]),
           pointer<T>(l.in[2]), pointer<T>(l.in[3]), pointer<const T>(l.in[4]), size);
  });
}

void sgd_kernel(const Launch& l) {
  map_any_floating<2>(l, [&](auto t) {
    using T = decltype(t);
    return Descend<T>{static_cast<T>(l.attrs->scalar), l.status};
  });
}

}  // namespace edfcore::cuda
