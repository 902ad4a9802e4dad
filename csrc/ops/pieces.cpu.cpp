// CPU kernels of slice, its gradient, concat and stack.
#include <string.h>

#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t work = 16384;  // elements in a chunk

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// The product of dims [first, last).
std::int64_t extent(const View& x, std::int64_t first, std::int64_t last) {
  std::int64_t n = 1;
  for (std::int64_t i = first; i < last; ++i) n *= x.dims[i];
  return n;
}

// What becomes of an input: its runs, of which each row of the output has one from `first` on.
template <class T>
struct Piece {
  const T* x;
  std::int64_t run, first;
};

// Some inputs at once, or each line of the output would be visited for every one of them; but one by one
// where long runs of them go past the caches.
constexpr int at_once = 8;

template <class T>
void join_pieces(const Piece<T> (&pieces)[at_once], int count, T* y, std::int64_t rows, std::int64_t width,
                 bool past) {
  const std::int64_t from = pieces[0].first, to = pieces[count - 1].first + pieces[count - 1].run;
  const std::int64_t band = to - from > work ? work : to - from,
                     bands = band > 0 ? (to - from + band - 1) / band : 0;
  const std::int64_t grain = band > 0 ? work / band : 1;
  parallel_ranges(rows * bands, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = bands == 1 ? i : i / bands, low = from + (i - row * bands) * band;
      const std::int64_t high = smaller(low + band, to);
      for (int p = 0; p < count; ++p) {
        const Piece<T>& piece = pieces[p];
        const std::int64_t first = piece.first > low ? piece.first : low;
        const std::int64_t last = smaller(piece.first + piece.run, high);
        if (first >= last) continue;
        T* to = y + row * width + first;
        const T* from_piece = piece.x + row * piece.run + (first - piece.first);
        if (past)
          stream(to, from_piece, (last - first) * std::int64_t{sizeof(T)});
        else
          copy_run(to, from_piece, last - first);
      }
    }
    if (past) stream_end();
  });
}

void join(const Launch& launch) {
  const View& out = launch.out[0];
  if (out.size == 0) return;
  const std::int64_t rows = extent(out, 0, launch.attrs->ints[0]), width = out.size / rows;
  visit_bits(out.dtype, [&](auto bits) {
    using T = decltype(bits);
    std::int64_t first = 0;
    const bool past = streams(launch, sizeof(T)) && width * std::int64_t{sizeof(T)} >= 2048 * launch.n_in;
    const std::int32_t step = past ? 1 : at_once;
    for (std::int32_t i = 0; i < launch.n_in; i += step) {
      Piece<T> pieces[at_once];
      int count = 0;
      for (; count < step && i + count < launch.n_in; ++count) {
        const View& x = launch.in[i + count];
        pieces[count] = {pointer<const T>(x), x.size / rows, first};
        first += pieces[count].run;
      }
      join_pieces(pieces, count, pointer<T>(out), rows, width, past);
    }
  });
}

// Where the terms of a slice lie in rows of `width`: every `step`th run of `inner` in [low, high).
struct Runs {
  std::int64_t width, inner, low, high, step, terms;

  // `count` elements of a row, the first of them `at` after the slice's beginning.
  template <class T>
  void spread_steps(const T* g, T* y, std::int64_t at, std::int64_t count) const {
    memset(y, 0, static_cast<size_t>(count) * sizeof(T));
    const std::int64_t stride = step * inner, passed = at / stride;
    g += passed * inner;
    for (std::int64_t first = passed * stride - at; first < count; first += stride, g += inner) {
      const std::int64_t begin = first < 0 ? -first : 0, end = smaller(inner, count - first);
      for (std::int64_t i = begin; i < end; ++i) y[first + i] = g[i];
    }
  }

  // Elements [begin, end) of the whole: those of the slice come from g, the others are 0.
  template <class T>
  void spread(const T* g, T* y, std::int64_t begin, std::int64_t end) const {
    while (begin < end) {
      const std::int64_t row = begin / width, column = begin - row * width;
      const bool inside = low <= column && column < high;
      const std::int64_t until = column < low ? low : inside ? high : width;
      const std::int64_t count = smaller(until - column, end - begin), bytes = std::int64_t{sizeof(T)};
      const T* from = g + row * terms;
      if (!inside)
        memset(y + begin, 0, static_cast<size_t>(count * bytes));
      else if (step == 1)
        memcpy(y + begin, from + (column - low), static_cast<size_t>(count * bytes));
      else
        spread_steps(from, y + begin, column - low, count);
      begin += count;
    }
  }
};

}  // namespace

void slice_kernel(const Launch& launch) {
  const View &x = launch.in[0], &y = launch.out[0];
  if (y.size == 0) return;
  const std::int64_t axis = launch.attrs->ints[0], inner = extent(x, axis + 1, x.rank);
  std::int64_t strides[max_loops], stride = 1;
  for (int i = x.rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= x.dims[i];
  }
  strides[axis] *= launch.attrs->ints[3];
  Loops<1> loops;
  for (int i = 0; i < y.rank; ++i) loops.push(y.dims[i], {strides[i]});
  loops.close();
  visit_bits(y.dtype, [&](auto bits) {
    using T = decltype(bits);
    copy_strided(launch, loops, pointer<const T>(x) + launch.attrs->ints[1] * inner);
  });
}

void slice_grad_kernel(const Launch& launch) {
  const View &g = launch.in[0], &y = launch.out[0];
  if (y.size == 0) return;
  const std::int64_t* ints = launch.attrs->ints;
  const std::int64_t axis = ints[0], inner = extent(y, axis + 1, y.rank), terms = g.dims[axis];
  const std::int64_t low = ints[1] * inner;
  const std::int64_t high = terms > 0 ? low + ((terms - 1) * ints[3] + 1) * inner : low;
  const Runs runs = {ints[4] * inner, inner, low, high, ints[3], terms * inner};
  visit_bits(y.dtype, [&](auto bits) {
    using T = decltype(bits);
    const T* from = pointer<const T>(g);
    T* to = pointer<T>(y);
    parallel_ranges(y.size, work,
                    [=](std::int64_t begin, std::int64_t end) { runs.spread(from, to, begin, end); });
  });
}

void concat_kernel(const Launch& launch) { join(launch); }

void stack_kernel(const Launch& launch) { join(launch); }

}  // namespace edfcore::EDF_ISA
