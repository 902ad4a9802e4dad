// argmax on a CUDA device.
#include "ops/rows_cuda.h"

namespace edfcore::cuda {

namespace {

// A value and where it stands; -1 is nowhere.
template <class T>
struct Placed {
  T value;
  std::int64_t at;
};

template <class T>
__device__ inline Placed<T> shuffle(Placed<T> p, int offset) {
  return {cuda::shuffle(p.value, offset), cuda::shuffle(p.at, offset)};
}

// The larger of two, and the first of equal ones; NaN wins.
struct Top {
  template <class T>
  __device__ Placed<T> operator()(Placed<T> a, Placed<T> b) const {
    if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a.value == b.value || (a_nan && b_nan)) return a.at < b.at ? a : b;
    return a_nan || a.value > b.value ? a : b;
  }
};

// `Lanes` neighbouring threads share an output. Terms lie `inner` elements apart.
template <int Lanes, class T>
__global__ void __launch_bounds__(block_threads, roomy)
    argmax_runs(const T* x, std::int64_t* out, std::int64_t size, std::int64_t n, std::int64_t inner) {
  const std::int64_t i = thread_number() / Lanes;
  const bool live = i < size;
  const Division d = divide(live ? i : 0, inner);
  x += d.quotient * n * inner + d.remainder;
  Placed<T> top{T(0), -1};
  for (std::int64_t at = static_cast<std::int64_t>(threadIdx.x % Lanes); live && at < n; at += Lanes)
    top = Top{}(top, Placed<T>{x[at * inner], at});
  if constexpr (Lanes > 1) top = combine<Lanes>(top, Top{});
  if (live && threadIdx.x % Lanes == 0) out[i] = top.at;
}

}  // namespace

void argmax_kernel(const Launch& l) {
  const View &x = l.in[0], &out = l.out[0];
  if (out.size == 0) return;
  const std::int64_t axis = l.attrs->ints[0], n = x.dims[axis];
  std::int64_t inner = 1;
  for (std::int64_t i = axis + 1; i < x.rank; ++i) inner *= x.dims[i];
  visit_numeric(x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto lanes) {
      constexpr int L = decltype(lanes)::value;
      launch(argmax_runs<L, T>, blocks_for(out.size, block_threads / L), block_threads, 0, l.stream,
             pointer<const T>(x), pointer<std::int64_t>(out), out.size, n, inner);
    };
    if (inner >= 32 || n <= 8) return run(std::integral_constant<int, 1>{});
    if (n <= 1024) return run(std::integral_constant<int, 32>{});
    run(std::integral_constant<int, 256>{});
  });
}

}  // namespace edfcore::cuda
