// For the kernels of products, in *.cpu.cpp: those of few columns. A tile of the result would fill no vector,
// so it is computed transposed, with rows of the left operand in the lanes; the chain of each element is the
// same.
#pragma once

#include "ops/matmul_cpu.h"

namespace edfcore::EDF_ISA {

constexpr std::int64_t narrow_depth = 64;  // steps whose panel stays in the first-level cache

// Columns [0, Columns) of rows [i, i + width), of at most `Vectors` vectors.
template <class T, int Columns, int Vectors>
void narrow_panel(const Product<T>& p, std::int64_t i, std::int64_t width, T* panel) {
  Vector<T> acc[Columns][Vectors] = {};
  const Left<T> b = p.trans_b ? Left<T>{p.b, p.whole, 1} : Left<T>{p.b, 1, p.columns};
  for (std::int64_t k = 0; k < p.depth; k += narrow_depth) {
    const std::int64_t steps = smaller(narrow_depth, p.depth - k);
    if (p.trans_a)
      pack_rows(p.a + k * p.rows + i, p.rows, width, steps, panel);
    else
      pack_columns(p.a + i * p.whole + k, p.whole, width, steps, panel);
    add_products<T, Columns, Vectors, false>(acc, {b.data + k * b.step, b.row, b.step}, panel, panel_width<T>,
                                             width, steps);
  }
  alignas(64) T made[Columns][Vectors * lanes<T>];
  EDF_UNROLL
  for (int j = 0; j < Columns; ++j) EDF_UNROLL
  for (int v = 0; v < Vectors; ++v) store(made[j] + v * lanes<T>, acc[j][v]);
  T* c = p.c + i * Columns;
  const T* plus = p.plus ? p.plus + i * Columns : nullptr;
  for (std::int64_t r = 0; r < width; ++r)
    for (std::int64_t j = 0; j < Columns; ++j, ++c) *c = plus ? *plus++ + p.scale * made[j][r] : made[j][r];
}

// Rows [i0, i1).
template <class T, int Columns = most_narrow<T>>
void multiply_narrow(const Product<T>& p, std::int64_t i0, std::int64_t i1) {
  if constexpr (Columns > 1) {
    if (p.columns < Columns) return multiply_narrow<T, Columns - 1>(p, i0, i1);
  }
  alignas(64) T panel[narrow_depth * panel_width<T>];
  for (std::int64_t i = i0; i < i1; i += panel_width<T>) {
    const std::int64_t width = smaller(panel_width<T>, i1 - i);
    if (width > lanes<T>)
      narrow_panel<T, Columns, tile_vectors>(p, i, width, panel);
    else
      narrow_panel<T, Columns, 1>(p, i, width, panel);
  }
}

}  // namespace edfcore::EDF_ISA
