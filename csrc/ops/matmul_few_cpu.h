// For the kernels of products, in *.cpu.cpp: those of few rows. Their tiles are wider, and read the right
// operand where it is.
#pragma once

#include "ops/matmul_cpu.h"

namespace edfcore::EDF_ISA {

// Few rows leave most registers free, and one multiply-add waits for another: columns of several panels then
// go side by side, in b where it is.
constexpr int most_side_by_side = masks ? 8 : 4;
constexpr int panels_side_by_side(std::int64_t rows) {
  return rows == 1 ? most_side_by_side : rows <= 3 ? 4 : 2;
}

template <class T, int Rows, int Vectors, bool Masked, bool Far = false>
void few_rows(const Product<T>& p, std::int64_t i, std::int64_t j) {
  Left<T> a = left_tile(p, 0);
  a.data += i * a.row;
  const std::int64_t width = smaller(Vectors * lanes<T>, p.columns - j), at = i * p.columns + j;
  tile<T, Rows, Vectors, Masked, false, Far>(a, p.b + j, p.columns, p.c + at, p.plus ? p.plus + at : nullptr,
                                             p.scale, p.columns, width, p.depth, p.first);
}

// Rows [i, i + rows), at most `Rows`, of one panel or several side by side; returns how many.
template <class T, int Rows = static_cast<int>(few)>
std::int64_t multiply_few(const Product<T>& p, std::int64_t i, std::int64_t rows, std::int64_t panel,
                          std::int64_t p1) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_few<T, Rows - 1>(p, i, rows, panel, p1);
  }
  constexpr int several = panels_side_by_side(Rows);
  const std::int64_t j = panel * panel_width<T>;
  if (panel + several <= p1 && j + several * panel_width<T> <= p.columns) {
    if (p.far() && p.depth > rows_at_once)
      few_rows<T, Rows, several * tile_vectors, false, true>(p, i, j);
    else
      few_rows<T, Rows, several * tile_vectors, false>(p, i, j);
    return several;
  }
  if (p.width(panel) == panel_width<T>)
    few_rows<T, Rows, tile_vectors, false>(p, i, j);
  else
    few_rows<T, Rows, tile_vectors, true>(p, i, j);
  return 1;
}

// All rows by panels [p0, p1).
template <class T>
void multiply_wide(const Product<T>& p, std::int64_t p0, std::int64_t p1) {
  const std::int64_t part = p.part_rows(), most = p.streams() ? rows_at_once : p.depth + 1;
  for (std::int64_t k = 0; k == 0 || k < p.depth; k += most) {
    Product<T> some = p;
    some.depth = smaller(most, p.depth - k);
    some.first = p.first && k == 0;
    some.a += k * (p.trans_a ? p.rows : 1);
    some.b += k * p.columns;
    for (std::int64_t i = 0; i < p.rows; i += part)
      for (std::int64_t panel = p0; panel < p1;)
        panel += multiply_few(some, i, smaller(part, p.rows - i), panel, p1);
  }
}

}  // namespace edfcore::EDF_ISA
