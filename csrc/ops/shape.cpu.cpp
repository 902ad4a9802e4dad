// CPU kernels of reshape and transpose.
#include <string.h>

#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t tile = 16;  // a cache line of float32 both ways

template <class T>
void copy(const View& from, const View& to) {
  const T* x = pointer<const T>(from);
  T* y = pointer<T>(to);
  parallel_ranges(to.size, 65536, [=](std::int64_t begin, std::int64_t end) {
    memcpy(y + begin, x + begin, static_cast<size_t>(end - begin) * sizeof(T));
  });
}

// The output's axes in order, with the input's strides.
Loops<1> permuted_loops(const Launch& launch) {
  const View &x = launch.in[0], &y = launch.out[0];
  std::int64_t strides[max_loops], step = 1;
  for (int i = x.rank - 1; i >= 0; --i) {
    strides[i] = step;
    step *= x.dims[i];
  }
  Loops<1> loops;
  for (int i = 0; i < y.rank; ++i) loops.push(y.dims[i], {strides[launch.attrs->ints[i]]});
  loops.close();
  return loops;
}

// A plane of `rows` by `columns`: y[r * y_step + c] = x[r + c * x_step], in tiles, so that both sides use
// whole lines.
template <class T>
void transpose_plane(const T* x, std::int64_t x_step, T* __restrict y, std::int64_t y_step, std::int64_t rows,
                     std::int64_t columns) {
  for (std::int64_t c0 = 0; c0 < columns; c0 += tile)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = c0; c < c0 + tile && c < columns; ++c) y[r * y_step + c] = x[r + c * x_step];
}

// The axis along which the input is contiguous and the output's last axis span planes; the others are walked.
template <class T>
void transpose_planes(const Loops<1>& loops, const T* x, T* y) {
  int across = 0;
  while (loops.strides[across][0] != 1) ++across;
  const std::int64_t rows = loops.dims[across], columns = loops.inner(), bands = (rows + tile - 1) / tile;
  const std::int64_t planes = loops.size() / rows / columns;
  std::int64_t steps[max_loops], step = 1;
  for (int i = loops.rank - 1; i >= 0; --i) {
    steps[i] = step;
    step *= loops.dims[i];
  }
  Loops<2> walk;  // over planes: where each begins in x and in y
  for (int i = 0; i + 1 < loops.rank; ++i)
    if (i != across) walk.push(loops.dims[i], {loops.strides[i][0], steps[i]});
  walk.close();
  const std::int64_t grain = 16384 / (tile * columns);
  parallel_ranges(planes * bands, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t plane = i / bands, first = (i - plane * bands) * tile;
      transpose_plane(x + walk.offset(0, plane) + first, loops.inner_stride(0),
                      y + walk.offset(1, plane) + first * steps[across], steps[across],
                      rows - first < tile ? rows - first : tile, columns);
    }
  });
}

}  // namespace

void reshape_kernel(const Launch& launch) {
  visit_bits(launch.out[0].dtype, [&](auto bits) { copy<decltype(bits)>(launch.in[0], launch.out[0]); });
}

void transpose_kernel(const Launch& launch) {
  if (launch.out[0].size == 0) return;
  const Loops<1> loops = permuted_loops(launch);
  visit_bits(launch.out[0].dtype, [&](auto bits) {
    using T = decltype(bits);
    const T* x = pointer<const T>(launch.in[0]);
    T* y = pointer<T>(launch.out[0]);
    if (loops.inner_stride(0) == 1)
      copy_strided(loops, x, y);
    else
      transpose_planes(loops, x, y);
  });
}

}  // namespace edfcore::EDF_ISA
