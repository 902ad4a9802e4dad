// CPU kernels of matmul and affine: register tiles over panels of the right operand. Every element of the result is one
// chain of multiply-adds in the order of k, whatever its tile, so it does not depend on tiling or threads.
#include "ops/simd_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

#if defined(__AVX512F__)
constexpr int tile_rows = 12;
#elif defined(__AVX2__)
constexpr int tile_rows = 6;
#else
constexpr int tile_rows = 4;
#endif
constexpr int tile_vectors = 2;
constexpr std::int64_t depth_block = 1024;      // of k: a panel's share stays in the second-level cache
constexpr std::int64_t row_block = 4 * tile_rows;
constexpr std::int64_t chunk_work = 1 << 18;    // multiply-adds in a chunk, at least
constexpr std::int64_t unpacked_rows = 96;      // fewer rows do not repay the copying of a panel

template <class T>
constexpr std::int64_t panel_width = tile_vectors * lanes<T>;

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Left operand: element (i, k) is at a[i * a_row + k * a_step].
template <class T>
struct Product {
  std::int64_t rows, columns, depth;
  const T* a;
  std::int64_t a_row, a_step;
  const T* b;
  bool trans_b;
  T* c;
  T* packed;  // room for the right operand's panels

  std::int64_t panels() const { return ceil_div(columns, panel_width<T>); }
  std::int64_t width(std::int64_t panel) const { return smaller(panel_width<T>, columns - panel * panel_width<T>); }
  // A panel of whole vectors can be read where it is, one row of b after the other.
  bool packs(std::int64_t panel) const {
    return trans_b || width(panel) < panel_width<T> || rows > unpacked_rows;
  }
  T* packed_panel(std::int64_t panel) const { return packed + panel * panel_width<T> * depth; }
};

template <class T, int Rows, int Vectors>
void tile(const Product<T>& p, const T* a, const T* b, std::int64_t b_step, T* c, std::int64_t width,
          std::int64_t depth, bool first) {
  Vector<T> acc[Rows][Vectors] = {};
  if (!first)
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v)
        acc[r][v] = load_first(c + r * p.columns + v * lanes<T>, width - v * lanes<T>);
  const std::int64_t a_row = p.a_row, a_step = p.a_step;
  for (std::int64_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
    Vector<T> right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * lanes<T>);
    for (int r = 0; r < Rows; ++r) {
      const Vector<T> left = broadcast(a[r * a_row]);
      for (int v = 0; v < Vectors; ++v) acc[r][v] = multiply_add(left, right[v], acc[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      store_first(c + r * p.columns + v * lanes<T>, acc[r][v], width - v * lanes<T>);
}

// The tile of the right number of rows and vectors, both constants to the compiler.
template <class T, int Rows = tile_rows>
void tile_of(const Product<T>& p, std::int64_t rows, const T* a, const T* b, std::int64_t b_step, T* c,
             std::int64_t width, std::int64_t depth, bool first) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return tile_of<T, Rows - 1>(p, rows, a, b, b_step, c, width, depth, first);
  }
  if (width > lanes<T>)
    tile<T, Rows, tile_vectors>(p, a, b, b_step, c, width, depth, first);
  else
    tile<T, Rows, 1>(p, a, b, b_step, c, width, depth, first);
}

// Copies columns of the right operand side by side, padded with zeros to a whole panel.
template <class T>
void pack_panel(const Product<T>& p, std::int64_t panel) {
  constexpr std::int64_t n = panel_width<T>, k_block = 32;
  const std::int64_t width = p.width(panel), first = panel * n;
  T* to = p.packed_panel(panel);
  if (!p.trans_b) {
    for (std::int64_t k = 0; k < p.depth; ++k)
      for (std::int64_t j = 0; j < n; ++j) to[k * n + j] = j < width ? p.b[k * p.columns + first + j] : T(0);
    return;
  }
  for (std::int64_t k0 = 0; k0 < p.depth; k0 += k_block) {
    const std::int64_t k1 = smaller(k0 + k_block, p.depth);
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t k = k0; k < k1; ++k) to[k * n + j] = j < width ? p.b[(first + j) * p.depth + k] : T(0);
  }
}

// Rows [i0, i1) of panels [p0, p1).
template <class T>
void multiply_block(const Product<T>& p, std::int64_t i0, std::int64_t i1, std::int64_t p0, std::int64_t p1) {
  for (std::int64_t k0 = 0; k0 == 0 || k0 < p.depth; k0 += depth_block) {
    const std::int64_t depth = smaller(depth_block, p.depth - k0);
    for (std::int64_t panel = p0; panel < p1; ++panel) {
      const std::int64_t j = panel * panel_width<T>;
      const bool packs = p.packs(panel);
      const std::int64_t b_step = packs ? panel_width<T> : p.columns;
      const T* b = packs ? p.packed_panel(panel) + k0 * b_step : p.b + k0 * b_step + j;
      for (std::int64_t i = i0; i < i1; i += tile_rows)
        tile_of<T>(p, smaller(tile_rows, i1 - i), p.a + i * p.a_row + k0 * p.a_step, b, b_step,
                   p.c + i * p.columns + j, p.width(panel), depth, k0 == 0);
    }
  }
}

template <class T>
void add_bias(const Product<T>& p, const T* bias, std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) {
  for (std::int64_t i = i0; i < i1; ++i) {
    T* row = p.c + i * p.columns;
    EDF_INDEPENDENT
    for (std::int64_t j = j0; j < j1; ++j) row[j] += bias[j];
  }
}

// Chunks are blocks of rows by groups of panels; bias may be null.
template <class T>
void multiply(const Product<T>& p, const T* bias) {
  if (p.rows == 0 || p.columns == 0) return;
  const std::int64_t panels = p.panels(), panel_work = p.depth * panel_width<T>;
  parallel_ranges(panels, ceil_div(chunk_work / 8, panel_work + 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel)
      if (p.packs(panel)) pack_panel(p, panel);
  });
  const std::int64_t group = smaller(panels, ceil_div(chunk_work, smaller(row_block, p.rows) * panel_work + 1));
  const std::int64_t block_work = row_block * group * panel_work + 1;
  const std::int64_t rows_in_chunk = row_block * ceil_div(chunk_work, block_work);
  const std::int64_t groups = ceil_div(panels, group), blocks = ceil_div(p.rows, rows_in_chunk);
  parallel_ranges(groups * blocks, 1, [&](std::int64_t chunk, std::int64_t) {
    const std::int64_t p0 = chunk % groups * group, p1 = smaller(p0 + group, panels);
    const std::int64_t i0 = chunk / groups * rows_in_chunk, i1 = smaller(i0 + rows_in_chunk, p.rows);
    multiply_block(p, i0, i1, p0, p1);
    if (bias) add_bias(p, bias, i0, i1, p0 * panel_width<T>, smaller(p1 * panel_width<T>, p.columns));
  });
}

template <class T>
void launch_product(const Launch& launch, bool trans_a, bool trans_b, const T* bias) {
  const View &a = launch.in[0], &b = launch.in[1], &c = launch.out[0];
  const std::int64_t rows = c.dims[0], depth = a.dims[trans_a ? 0 : 1];
  multiply<T>({rows, c.dims[1], depth, pointer<const T>(a), trans_a ? 1 : depth, trans_a ? rows : 1,
               pointer<const T>(b), trans_b, pointer<T>(c), static_cast<T*>(launch.scratch)},
              bias);
}

}  // namespace

void matmul_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_product<T>(launch, launch.attrs->trans_a, launch.attrs->trans_b, nullptr);
  });
}

void affine_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_product<T>(launch, false, false, pointer<const T>(launch.in[2]));
  });
}

}  // namespace edfcore::EDF_ISA
