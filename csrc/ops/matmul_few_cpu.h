// For the kernels of products, in *.cpu.cpp: those of few rows. Their tiles are wider, and read the right
// operand where it is.
#pragma once

#include "ops/matmul_cpu.h"

namespace edfcore::EDF_ISA {

// Few rows leave most registers free, and one multiply-add waits for another: columns of several panels then
// go side by side, in b where it is.
constexpr int most_side_by_side = masks ? 8 : 4;
constexpr int panels_side_by_side(std::int64_t rows) {
  const bool many_registers = tile_rows > 6;
  return rows == 1 ? most_side_by_side : (rows <= 3 ? 2 : 1) * (many_registers ? 2 : 1);
}

template <class T, int Rows, int Vectors, bool Masked, bool Far = false>
void few_rows(const Product<T>& p, std::int64_t i, std::int64_t j) {
  Left<T> a = left_tile(p, 0);
  a.data += i * a.row;
  const std::int64_t width = smaller(Vectors * lanes<T>, p.columns - j), at = i * p.columns + j;
  tile<T, Rows, Vectors, Masked, false, Far>(a, p.b + j, p.columns, p.c + at, p.plus ? p.plus + at : nullptr,
                                             p.scale, p.columns, width, p.depth, p.first);
}

// `Rows` rows by as many panels side by side as there are, at most `Panels`; returns how many.
template <class T, int Rows, int Panels = panels_side_by_side(Rows)>
std::int64_t multiply_panels(const Product<T>& p, std::int64_t i, std::int64_t panel, std::int64_t p1) {
  constexpr int vectors = Panels * tile_vectors;
  const std::int64_t j = panel * panel_width<T>;
  const bool whole = panel + Panels <= p1 && j + vectors * lanes<T> <= p.columns;
  if constexpr (Panels > 1) {
    if (!whole) return multiply_panels<T, Rows, Panels / 2>(p, i, panel, p1);
    constexpr bool fetches = masks && sizeof(T) == 4;  // where it was measured
    if (fetches && p.far() && p.depth > rows_at_once)
      few_rows<T, Rows, vectors, false, fetches>(p, i, j);
    else
      few_rows<T, Rows, vectors, false>(p, i, j);
  } else {
    whole ? few_rows<T, Rows, vectors, false>(p, i, j) : few_rows<T, Rows, vectors, true>(p, i, j);
  }
  return Panels;
}

// The same for rows [i, i + rows), at most `Rows`.
template <class T, int Rows = static_cast<int>(few)>
std::int64_t multiply_few(const Product<T>& p, std::int64_t i, std::int64_t rows, std::int64_t panel,
                          std::int64_t p1) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_few<T, Rows - 1>(p, i, rows, panel, p1);
  }
  return multiply_panels<T, Rows>(p, i, panel, p1);
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
