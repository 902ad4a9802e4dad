// For matmul.cpu.cpp: c + a_1 b_1 + a_2 b_2 + ..., with the bits of one product after the other.
#pragma once

#include "ops/matmul_cpu.h"

namespace edfcore::EDF_ISA {

// The sum of products of little depth stays in registers while they are added to it, one after the other.
constexpr int sum_rows = tile_rows / 2;  // as many again hold the product

template <class T>
struct Sum {
  Product<T> p;  // of each term; `plus` is what they are added to
  const View* terms;
  std::int64_t count;

  Left<T> left(std::int64_t term, std::int64_t i) const {
    const T* a = pointer<const T>(terms[2 * term]);
    return p.trans_a ? Left<T>{a + i, 1, p.rows} : Left<T>{a + i * p.depth, p.depth, 1};
  }
};

// `b`: the columns of all terms' right operands, packed.
template <class T, int Rows, int Vectors>
void sum_tile(const Sum<T>& sum, const T* b, std::int64_t i, std::int64_t j, std::int64_t width) {
  const std::int64_t columns = sum.p.columns, depth = sum.p.depth;
  Vector<T> total[Rows][Vectors];
  load_tile<T, Rows, Vectors>(total, sum.p.plus + i * columns + j, columns, width);
  for (std::int64_t term = 0; term < sum.count; ++term, b += depth * panel_width<T>) {
    Vector<T> acc[Rows][Vectors] = {};
    add_products<T, Rows, Vectors, false>(acc, sum.left(term, i), b, panel_width<T>, width, depth);
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) total[r][v] = acc[r][v] + total[r][v];
  }
  store_tile<T, Rows, Vectors>(total, sum.p.c + i * columns + j, columns, width);
}

template <class T, int Rows = sum_rows>
void sum_tile_of(std::int64_t rows, const Sum<T>& sum, const T* b, std::int64_t i, std::int64_t j,
                 std::int64_t width) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return sum_tile_of<T, Rows - 1>(rows, sum, b, i, j, width);
  }
  if (width > lanes<T>)
    sum_tile<T, Rows, tile_vectors>(sum, b, i, j, width);
  else
    sum_tile<T, Rows, 1>(sum, b, i, j, width);
}

// Chunks are panels, or parts of their rows.
template <class T>
void add_up(const Sum<T>& sum) {
  const Product<T>& p = sum.p;
  const std::int64_t deep = sum.count * p.depth;
  const std::int64_t block = sum_rows * ceil_div(chunk_work, sum_rows * deep * panel_width<T> + 1);
  const std::int64_t blocks = ceil_div(p.rows, block);
  parallel_ranges(p.panels() * blocks, 1, [&](std::int64_t chunk, std::int64_t) {
    alignas(64) T packed[matmul_sum_depth * panel_width<T>];
    const std::int64_t panel = chunk / blocks, width = p.width(panel), j = panel * panel_width<T>;
    for (std::int64_t term = 0; term < sum.count; ++term) {
      const T* b = pointer<const T>(sum.terms[2 * term + 1]);
      T* to = packed + term * p.depth * panel_width<T>;
      if (p.trans_b)
        pack_columns(b + j * p.depth, p.depth, width, p.depth, to);
      else
        pack_rows(b + j, p.columns, width, p.depth, to);
    }
    const std::int64_t begin = chunk % blocks * block, end = smaller(begin + block, p.rows);
    for (std::int64_t i = begin; i < end; i += sum_rows)
      sum_tile_of<T>(smaller(sum_rows, end - i), sum, packed, i, j, width);
  });
}

}  // namespace edfcore::EDF_ISA
