// CPU kernels of reshape and transpose.
#include <string.h>

#include "ops/simd_cpu.h"
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t band = 256, block = 64;  // of a plane, in a chunk

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

// Numbers whose bits vectors of floats can hold: moving these changes none.
template <class T>
struct Carrier {};
template <>
struct Carrier<std::uint32_t> {
  using Type = float;
};
template <>
struct Carrier<std::uint64_t> {
  using Type = double;
};

// A plane of `rows` by `columns`: y[r * y_step + c] = x[r + c * x_step].
template <class T>
void transpose_plane(const T* x, std::int64_t x_step, T* __restrict y, std::int64_t y_step, std::int64_t rows,
                     std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) y[r * y_step + c] = x[r + c * x_step];
}

// The same in squares of vectors: every line of memory is read once and written once, whatever lies between
// lines.
template <class T>
void transpose_squares(const T* x, std::int64_t x_step, T* y, std::int64_t y_step, std::int64_t rows,
                       std::int64_t columns) {
  if constexpr (sizeof(T) < 4) {
    transpose_plane(x, x_step, y, y_step, rows, columns);
  } else {
    using F = typename Carrier<T>::Type;
    constexpr int side = lanes<F>;
    std::int64_t c = 0;
    for (; c + side <= columns; c += side) {
      std::int64_t r = 0;
      for (; r + side <= rows; r += side) {
        Vector<F> square[side];
        for (int i = 0; i < side; ++i) memcpy(&square[i], x + r + (c + i) * x_step, sizeof square[i]);
        transpose_square<F>(square);
        for (int i = 0; i < side; ++i) memcpy(y + (r + i) * y_step + c, &square[i], sizeof square[i]);
      }
      transpose_plane(x + r + c * x_step, x_step, y + r * y_step + c, y_step, rows - r, std::int64_t{side});
    }
    transpose_plane(x + c * x_step, x_step, y + c, y_step, rows, columns - c);
  }
}

// The axis along which the input is contiguous and the output's last axis span planes; the others are walked.
template <class T>
void transpose_planes(const Loops<1>& loops, const T* x, T* y) {
  int across = 0;
  while (loops.strides[across][0] != 1) ++across;
  const std::int64_t rows = loops.dims[across], columns = loops.inner();
  const std::int64_t bands = (rows + band - 1) / band, blocks = (columns + block - 1) / block;
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
  parallel_ranges(planes * bands * blocks, 1, [&](std::int64_t i, std::int64_t) {
    const std::int64_t plane = i / (bands * blocks), in_plane = i - plane * bands * blocks;
    const std::int64_t r = in_plane / blocks * band, c = in_plane % blocks * block;
    transpose_squares(x + walk.offset(0, plane) + r + c * loops.inner_stride(0), loops.inner_stride(0),
                      y + walk.offset(1, plane) + r * steps[across] + c, steps[across],
                      rows - r < band ? rows - r : band, columns - c < block ? columns - c : block);
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
    if (loops.inner_stride(0) == 1)
      copy_strided(launch, loops, x);
    else
      transpose_planes(loops, x, pointer<T>(launch.out[0]));
  });
}

}  // namespace edfcore::EDF_ISA
