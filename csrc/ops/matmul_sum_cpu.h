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
  const T* plus = sum.p.plus + i * columns + j;
  Vector<T> total[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      total[r][v] = load_first(plus + r * columns + v * lanes<T>, width - v * lanes<T>);
  for (std::int64_t term = 0; term < sum.count; ++term) {
    Left<T> a = sum.left(term, i);
    Vector<T> acc[Rows][Vectors] = {};
    for (std::int64_t k = 0; k < depth; ++k, a.data += a.step, b += panel_width<T>) {
      Vector<T> right[Vectors];
      for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * lanes<T>);
      for (int r = 0; r < Rows; ++r) {
        const Vector<T> left = broadcast(a.data[r * a.row]);
        for (int v = 0; v < Vectors; ++v) acc[r][v] = multiply_add(left, right[v], acc[r][v]);
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v) total[r][v] = acc[r][v] + total[r][v];
  }
  T* c = sum.p.c + i * columns + j;
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      store_first(c + r * columns + v * lanes<T>, total[r][v], width - v * lanes<T>);
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
