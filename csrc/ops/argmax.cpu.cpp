// CPU kernel of argmax.
#include "ops/rows_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t work = 32768;  // elements that one chunk reads, about
constexpr std::int64_t segment = 64;  // columns that are looked at side by side

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// The maximum is found first, which takes vectors, and then its place.
template <class T>
std::int64_t place_of_top(const T* x, std::int64_t n) {
  const T top = fold_run<MaxFold>(x, n);
  for (std::int64_t i = 0; i < n; ++i)
    if (x[i] == top || x[i] != x[i]) return i;
  return 0;
}

// `count` columns side by side, at most a segment, of rows `step` apart.
template <class T>
void places_of_tops(const T* x, std::int64_t n, std::int64_t step, std::int64_t count, std::int64_t* at) {
  T top[segment];
  for (std::int64_t j = 0; j < count; ++j) {
    top[j] = x[j];
    at[j] = 0;
  }
  for (std::int64_t i = 1; i < n; ++i) {
    const T* row = x + i * step;
    for (std::int64_t j = 0; j < count; ++j) {
      const bool above = (row[j] > top[j]) | ((row[j] != row[j]) & (top[j] == top[j]));
      top[j] = above ? row[j] : top[j];
      at[j] = above ? i : at[j];
    }
  }
}

}  // namespace

void argmax_kernel(const Launch& launch) {
  const View &x = launch.in[0], &out = launch.out[0];
  if (out.size == 0) return;
  const std::int64_t axis = launch.attrs->ints[0], n = x.dims[axis];
  std::int64_t inner = 1;
  for (std::int64_t i = axis + 1; i < x.rank; ++i) inner *= x.dims[i];
  const std::int64_t grain = smaller(work, work / n + 1);
  visit_numeric(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = pointer<const T>(x);
    std::int64_t* at = pointer<std::int64_t>(out);
    parallel_ranges(out.size, grain, [=](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        if (inner == 1) {
          at[begin] = place_of_top(from + begin * n, n);
          ++begin;
          continue;
        }
        const std::int64_t row = begin / inner, column = begin - row * inner;
        const std::int64_t count = smaller(smaller(inner - column, end - begin), segment);
        places_of_tops(from + row * n * inner + column, n, inner, count, at + begin);
        begin += count;
      }
    });
  });
}

}  // namespace edfcore::EDF_ISA
