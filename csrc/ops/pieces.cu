// slice, its gradient, concat and stack on a CUDA device: values move by width and are never looked at.
#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

namespace {

// The slice lies in rows of `axis` runs of `inner` elements: `terms` of them, `step` apart, from `start` on.
struct Runs {
  std::int64_t inner, axis, start, step, terms;
};

Runs runs_of(const Attrs& attrs, const View& whole, const View& part) {
  const std::int64_t at = attrs.ints[0];
  Runs r{1, whole.dims[at], attrs.ints[1], attrs.ints[3], part.dims[at]};
  for (std::int64_t i = at + 1; i < whole.rank; ++i) r.inner *= whole.dims[i];
  return r;
}

// One thread an element of the output, here and below.
template <class T>
__global__ void __launch_bounds__(block_threads) slice_runs(Runs r, const T* x, T* out, std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const Division run = divide(i, r.inner), row = divide(run.quotient, r.terms);
  out[i] = x[(row.quotient * r.axis + r.start + row.remainder * r.step) * r.inner + run.remainder];
}

template <class T>
__global__ void __launch_bounds__(block_threads) spread_runs(Runs r, const T* g, T* out, std::int64_t size) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const Division run = divide(i, r.inner), row = divide(run.quotient, r.axis);
  T value = T(0);
  if (row.remainder >= r.start) {
    const Division nth = divide(row.remainder - r.start, r.step);
    if (nth.remainder == 0 && nth.quotient < r.terms)
      value = g[(row.quotient * r.terms + nth.quotient) * r.inner + run.remainder];
  }
  out[i] = value;
}

// Runs of x become those of each `width` elements of the output that begin at `first`.
template <class T>
__global__ void __launch_bounds__(block_threads)
    place_runs(const T* x, T* out, std::int64_t size, std::int64_t run, std::int64_t width,
               std::int64_t first) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const Division d = divide(i, run);
  out[d.quotient * width + first + d.remainder] = x[i];
}

void join(const Launch& l) {
  const View& out = l.out[0];
  if (out.size == 0) return;
  std::int64_t rows = 1, first = 0;
  for (std::int64_t i = 0; i < l.attrs->ints[0]; ++i) rows *= out.dims[i];
  for (std::int32_t i = 0; i < l.n_in; ++i) {
    const View& x = l.in[i];
    const std::int64_t run = x.size / rows;
    if (run == 0) continue;
    visit_width(dtype_size(out.dtype), [&](auto t) {
      using T = decltype(t);
      launch(place_runs<T>, blocks_for(x.size, block_threads), block_threads, 0, l.stream,
             pointer<const T>(x), pointer<T>(out), x.size, run, out.size / rows, first);
    });
    first += run;
  }
}

}  // namespace

void slice_kernel(const Launch& l) {
  const View &x = l.in[0], &out = l.out[0];
  if (out.size == 0) return;
  visit_width(dtype_size(out.dtype), [&](auto t) {
    using T = decltype(t);
    launch(slice_runs<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
           runs_of(*l.attrs, x, out), pointer<const T>(x), pointer<T>(out), out.size);
  });
}

void slice_grad_kernel(const Launch& l) {
  const View &g = l.in[0], &out = l.out[0];
  if (out.size == 0) return;
  visit_width(dtype_size(out.dtype), [&](auto t) {
    using T = decltype(t);
    launch(spread_runs<T>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
           runs_of(*l.attrs, out, g), pointer<const T>(g), pointer<T>(out), out.size);
  });
}

void concat_kernel(const Launch& l) { join(l); }

void stack_kernel(const Launch& l) { join(l); }

}  // namespace edfcore::cuda
