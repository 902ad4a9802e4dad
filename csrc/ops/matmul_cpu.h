// For the kernels of products, in *.cpu.cpp: register tiles over panels of the right operand, and the copying
// of operands into panels and strips.
#pragma once

#include "ops/matmul.h"
#include "ops/simd_cpu.h"

namespace edfcore::EDF_ISA {

#if defined(__AVX512F__)
constexpr int tile_rows = 12;
#elif defined(__aarch64__)
constexpr int tile_rows = 10;  // of 32 registers, GCC takes one for each row's element of the left operand
#elif defined(__AVX2__)
constexpr int tile_rows = 6;
#else
constexpr int tile_rows = 4;
#endif
constexpr int tile_vectors = 2;
#if defined(__AVX512F__)
constexpr bool masks = true;  // the first lanes of a vector are read as fast as all
#else
constexpr bool masks = false;
#endif
constexpr std::int64_t block_strips = 4;
constexpr std::int64_t chunk_work = 1 << 18;  // multiply-adds in a chunk, at least
constexpr std::int64_t pack_work = 1 << 13;   // elements that a chunk copies, about

constexpr std::int64_t few = masks ? 7 : 6;  // rows: then tiles are wider
constexpr std::int64_t rows_ahead =
    16;  // of a far right operand are fetched: hardware does not foresee pieces of rows
constexpr std::int64_t rows_at_once = 8;  // of it, from end to end: those it does

template <class T>
constexpr std::int64_t panel_width = tile_vectors * lanes<T>;
template <class T>
constexpr int most_narrow = lanes<T> / 2;  // columns of products that are computed transposed

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <class T>
struct Product {
  std::int64_t rows, columns;
  std::int64_t depth, whole;  // of the part at hand, and in all
  const T *a, *b;             // where the part begins
  bool trans_a, trans_b;
  T* c;
  const T* plus;  // what the product is added to, `scale` times, or null; may be c itself
  T scale;
  bool first = true;  // part of the depth; to a later one, c is the product so far
  T *right, *left;    // room for copies of b in panels and of a in strips of tile_rows
  std::int64_t panel0 = 0, panel1 = 0, strip0 = 0, strip1 = 0;  // those at hand, of which copies are there

  std::int64_t panels() const { return ceil_div(columns, panel_width<T>); }
  std::int64_t strips() const { return ceil_div(rows, tile_rows); }
  std::int64_t width(std::int64_t panel) const {
    return smaller(panel_width<T>, columns - panel * panel_width<T>);
  }
  std::int64_t height(std::int64_t strip) const { return smaller(tile_rows, rows - strip * tile_rows); }
  T* right_panel(std::int64_t panel) const {
    return right + (packs_all_right() ? panel - panel0 : 0) * panel_width<T> * depth;
  }
  T* left_strip(std::int64_t strip) const { return left + (strip - strip0) * tile_rows * depth; }

  // By the cost of a step: transposing a vector of rows takes about as long as five multiply-adds.
  bool narrow() const {
    return columns <= most_narrow<T> && whole >= 8 && ceil_div(rows, lanes<T>) * (columns + 5) < rows;
  }
  // Then the result takes longer to write than to compute, and is written row by row.
  bool shallow() const { return whole <= 16 && rows > few && rows * columns > 1 << 18; }
  std::int64_t right_bytes() const { return whole * columns * static_cast<std::int64_t>(sizeof(T)); }
  bool far() const { return right_bytes() > matmul_near; }
  // Then the result waits in nearby caches while rows of the right operand go by, some at once: fewer rows of
  // the result are bound by memory at sizes where more are not yet.
  bool streams() const {
    return wide() && !plus && rows <= 8 && right_bytes() > (rows == 1 ? matmul_near : 4 * matmul_near);
  }
  // Then tiles are wider, and the right operand is read in longer pieces: several times where there are more
  // rows, which only pays if it comes from far away.
  bool wide() const { return !packs_all_right() && !narrow() && !shallow() && (rows <= few || far()); }
  std::int64_t part_rows() const { return ceil_div(rows, ceil_div(rows, few)); }
  bool packs_all_right() const { return !narrow() && matmul_packs_right(rows, trans_b, right_bytes()); }
  // A panel of whole vectors can be read where it is, one row of b after the other.
  bool packs_right(std::int64_t panel) const {
    return packs_all_right() || (width(panel) < panel_width<T> && !wide() && !masks && !narrow());
  }
  // So can the rows of a, for the most part.
  bool packs_left() const {
    return !narrow() && !wide() &&
           matmul_packs_left(rows, columns, trans_a, whole * static_cast<std::int64_t>(sizeof(T)));
  }

  std::int64_t depth_at_once() const {
    return plus || narrow() ? whole : matmul_depth_at_once(whole, rows, columns, packs_all_right());
  }
  std::int64_t panels_at_once() const {
    if (!packs_all_right()) return panels();
    const std::int64_t bytes = depth_at_once() * static_cast<std::int64_t>(sizeof(T));
    return ceil_div(matmul_columns_at_once(columns, rows, packs_left(), trans_a, bytes), panel_width<T>);
  }
  std::int64_t strips_at_once() const {
    if (!packs_left()) return strips();
    const std::int64_t bytes = depth_at_once() * static_cast<std::int64_t>(sizeof(T));
    return smaller(strips(), matmul_rows_at_once(columns, bytes) / tile_rows);
  }

  Product part(std::int64_t k, std::int64_t most) const {
    Product made = *this;
    made.depth = smaller(most, whole - k);
    made.first = k == 0;
    made.a += trans_a ? k * rows : k;
    made.b += trans_b ? k : k * columns;
    return made;
  }
};

// The element at row i and step k is at data[i * row + k * step].
template <class T>
struct Left {
  const T* data;
  std::int64_t row, step;
};

template <class T>
Left<T> left_tile(const Product<T>& p, std::int64_t strip) {
  if (p.packs_left()) return {p.left_strip(strip), 1, tile_rows};
  const std::int64_t i = strip * tile_rows;
  if (p.trans_a) return {p.a + i, 1, p.rows};
  return {p.a + i * p.whole, p.whole, 1};
}

// Only where not all columns of a tile are there does it take the vectors' first lanes.
template <class T, int Rows, int Vectors>
EDF_HD inline void load_tile(Vector<T> (&acc)[Rows][Vectors], const T* c, std::int64_t c_step,
                             std::int64_t width) {
  if (width >= Vectors * lanes<T>) {
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) acc[r][v] = load(c + r * c_step + v * lanes<T>);
  } else {
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v)
      acc[r][v] = load_first(c + r * c_step + v * lanes<T>, width - v * lanes<T>);
  }
}

template <class T, int Rows, int Vectors>
EDF_HD inline void store_tile(const Vector<T> (&acc)[Rows][Vectors], T* c, std::int64_t c_step,
                              std::int64_t width) {
  if (width >= Vectors * lanes<T>) {
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) store(c + r * c_step + v * lanes<T>, acc[r][v]);
  } else {
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v)
      store_first(c + r * c_step + v * lanes<T>, acc[r][v], width - v * lanes<T>);
  }
}

// The chain of a product goes on from `acc`. `Masked`: b has no more than `width` columns to read. `Packed`:
// both operands are copies. `Far`: b comes from far away.
template <class T, int Rows, int Vectors, bool Masked, bool Packed = false, bool Far = false>
EDF_HD inline void add_products(Vector<T> (&acc)[Rows][Vectors], const Left<T>& from, const T* b,
                                std::int64_t b_step, std::int64_t width, std::int64_t depth) {
  const T* a = from.data;
  const std::int64_t row = Packed ? 1 : from.row, step = Packed ? tile_rows : from.step;
  const std::int64_t next = Packed ? panel_width<T> : b_step;
  for (std::int64_t k = 0; k < depth; ++k, a += step, b += next) {
    if constexpr (Far) {
      EDF_UNROLL
      for (int at = 0; at < Vectors * lanes<T>; at += 64 / int{sizeof(T)})
        __builtin_prefetch(b + rows_ahead * b_step + at);
    }
    Vector<T> right[Vectors];
    EDF_UNROLL
    for (int v = 0; v < Vectors; ++v)
      right[v] = Masked ? load_first(b + v * lanes<T>, width - v * lanes<T>) : load(b + v * lanes<T>);
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const Vector<T> left = broadcast(a[r * row]);
      EDF_UNROLL
      for (int v = 0; v < Vectors; ++v) acc[r][v] = multiply_add(left, right[v], acc[r][v]);
    }
  }
}

template <class T, int Rows, int Vectors, bool Masked = false, bool Packed = false, bool Far = false>
void tile(const Left<T>& a, const T* b, std::int64_t b_step, T* c, const T* plus, T scale,
          std::int64_t c_step, std::int64_t width, std::int64_t depth, bool first) {
  Vector<T> acc[Rows][Vectors] = {};
  if (!first) load_tile<T, Rows, Vectors>(acc, c, c_step, width);
  add_products<T, Rows, Vectors, Masked, Packed, Far>(acc, a, b, b_step, width, depth);
  if (plus) {
    Vector<T> more[Rows][Vectors];
    load_tile<T, Rows, Vectors>(more, plus, c_step, width);
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) acc[r][v] = more[r][v] + scale * acc[r][v];
  }
  __asm__("" : "+r"(c), "+r"(c_step));  // or the addresses of all rows are made before the loop, and kept
  store_tile<T, Rows, Vectors>(acc, c, c_step, width);
}

// The tile of the right number of rows and vectors, both constants to the compiler.
template <class T, bool Masked, int Rows = tile_rows>
void tile_of(std::int64_t rows, const Left<T>& a, const T* b, std::int64_t b_step, T* c, const T* plus,
             T scale, std::int64_t c_step, std::int64_t width, std::int64_t depth, bool first) {
  if constexpr (Rows > 1) {
    if (rows < Rows)
      return tile_of<T, Masked, Rows - 1>(rows, a, b, b_step, c, plus, scale, c_step, width, depth, first);
  }
  if (width > lanes<T>)
    tile<T, Rows, tile_vectors, Masked>(a, b, b_step, c, plus, scale, c_step, width, depth, first);
  else
    tile<T, Rows, 1, Masked>(a, b, b_step, c, plus, scale, c_step, width, depth, first);
}

// Columns of the right operand side by side, padded with zeros to whole vectors.
template <class T>
void pack_rows(const T* b, std::int64_t b_step, std::int64_t width, std::int64_t depth, T* to) {
  for (std::int64_t k = 0; k < depth; ++k)
    for (std::int64_t j = 0; j < width; j += lanes<T>)
      store(to + k * panel_width<T> + j, load_first(b + k * b_step + j, width - j));
}

// The same where columns are contiguous.
template <class T>
void pack_columns(const T* b, std::int64_t b_step, std::int64_t width, std::int64_t depth, T* to) {
  constexpr std::int64_t n = lanes<T>;
  if (4 * depth <= n) {  // a square would be nearly empty
    for (std::int64_t k = 0; k < depth; ++k, to += panel_width<T>) {
      for (std::int64_t j = 0; j < width; ++j) to[j] = b[j * b_step + k];
      for (std::int64_t j = width; j % n; ++j) to[j] = 0;
    }
    return;
  }
  for (std::int64_t j = 0; j < width; j += n)
    for (std::int64_t k = 0; k < depth; k += n) {
      Vector<T> square[n] = {};
      for (std::int64_t l = 0; l < n && j + l < width; ++l)
        square[l] = load_first(b + (j + l) * b_step + k, depth - k);
      transpose_square<T>(square);
      for (std::int64_t l = 0; l < n && k + l < depth; ++l)
        store(to + (k + l) * panel_width<T> + j, square[l]);
    }
}

template <class T>
void pack_right(const Product<T>& p, std::int64_t panel) {
  const std::int64_t first = panel * panel_width<T>;
  if (p.trans_b)
    pack_columns(p.b + first * p.whole, p.whole, p.width(panel), p.depth, p.right_panel(panel));
  else
    pack_rows(p.b + first, p.columns, p.width(panel), p.depth, p.right_panel(panel));
}

// Panels [p0, p1), row by row of the right operand.
template <class T>
void pack_side_by_side(const Product<T>& p, std::int64_t p0, std::int64_t p1) {
  const std::int64_t step = panel_width<T> * p.depth;
  const std::int64_t j0 = p0 * panel_width<T>, whole = p1 * panel_width<T> > p.columns ? p1 - 1 : p1;
  T* const to = p.right_panel(p0);
  for (std::int64_t k = 0; k < p.depth; ++k) {
    const T* from = p.b + k * p.columns + j0;
    T* row = to + k * panel_width<T>;
    for (std::int64_t panel = p0; panel < whole; ++panel, from += panel_width<T>, row += step) EDF_UNROLL
    for (int v = 0; v < tile_vectors; ++v) store(row + v * lanes<T>, load(from + v * lanes<T>));
    if (whole < p1) pack_rows(from, p.columns, p.width(whole), 1, row);
  }
}

// Strips [s0, s1) of a left operand that is transposed, row by row of what lies in memory.
template <class T>
void pack_strips_side_by_side(const Product<T>& p, std::int64_t s0, std::int64_t s1) {
  const std::int64_t whole = p.height(s1 - 1) < tile_rows ? s1 - 1 : s1, rest = p.height(s1 - 1);
  T* const to = p.left_strip(s0);
  for (std::int64_t k = 0; k < p.depth; ++k) {
    const T* from = p.a + k * p.rows + s0 * tile_rows;
    T* strip = to + k * tile_rows;
    for (std::int64_t s = s0; s < whole; ++s, from += tile_rows, strip += tile_rows * p.depth)
      __builtin_memcpy(strip, from, tile_rows * sizeof(T));
    if (whole < s1) __builtin_memcpy(strip, from, static_cast<size_t>(rest) * sizeof(T));
  }
}

template <class T>
void pack_left(const Product<T>& p, std::int64_t strip) {
  const std::int64_t height = p.height(strip), first = strip * tile_rows;
  const T* from = p.a + first * p.whole;
  T* to = p.left_strip(strip);
  constexpr std::int64_t n = lanes<T>;
  for (std::int64_t r = 0; r < height; r += n)
    for (std::int64_t k = 0; k < p.depth; k += n) {
      Vector<T> square[n] = {};
      for (std::int64_t l = 0; l < n && r + l < height; ++l)
        square[l] = load_first(from + (r + l) * p.whole + k, p.depth - k);
      transpose_square<T>(square);
      for (std::int64_t l = 0; l < n && k + l < p.depth; ++l)
        store_first(to + (k + l) * tile_rows + r, square[l], height - r);
    }
}

// Those at hand. Rows of the right operand are read in pieces that are long enough to be fetched ahead.
template <class T>
void pack_panels(const Product<T>& p) {
  const std::int64_t last = p.panels() - 1, work = pack_work / (p.depth * panel_width<T> + 1);
  if (p.packs_all_right() && p.trans_b)
    parallel_ranges(p.panel1 - p.panel0, work, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t panel = begin; panel < end; ++panel) pack_right(p, p.panel0 + panel);
    });
  else if (p.packs_all_right())
    parallel_ranges(p.panel1 - p.panel0, work > 8 ? work : 8, [&](std::int64_t begin, std::int64_t end) {
      pack_side_by_side(p, p.panel0 + begin, p.panel0 + end);
    });
  else if (p.packs_right(last))
    pack_right(p, last);
}

template <class T>
void pack_strips(const Product<T>& p) {
  if (!p.packs_left()) return;
  const std::int64_t work = pack_work / (p.depth * tile_rows + 1);
  if (p.trans_a)
    parallel_ranges(p.strip1 - p.strip0, work > 16 ? work : 16, [&](std::int64_t begin, std::int64_t end) {
      pack_strips_side_by_side(p, p.strip0 + begin, p.strip0 + end);
    });
  else
    parallel_ranges(p.strip1 - p.strip0, work, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t strip = begin; strip < end; ++strip) pack_left(p, p.strip0 + strip);
    });
}

template <class T>
void multiply_tile(const Product<T>& p, std::int64_t s, std::int64_t panel) {
  const std::int64_t j = panel * panel_width<T>, width = p.width(panel), at = s * tile_rows * p.columns + j;
  const bool packed = p.packs_right(panel);
  const std::int64_t b_step = packed ? panel_width<T> : p.columns;
  const T* b = packed ? p.right_panel(panel) : p.b + j;
  const T* plus = p.plus ? p.plus + at : nullptr;
  const Left<T> a = left_tile(p, s);
  if (packed && p.packs_left() && p.height(s) == tile_rows && width == panel_width<T>)
    return tile<T, tile_rows, tile_vectors, false, true>(a, b, b_step, p.c + at, plus, p.scale, p.columns,
                                                         width, p.depth, p.first);
  if (masks && !packed && width < panel_width<T>)
    tile_of<T, masks>(p.height(s), a, b, b_step, p.c + at, plus, p.scale, p.columns, width, p.depth, p.first);
  else
    tile_of<T, false>(p.height(s), a, b, b_step, p.c + at, plus, p.scale, p.columns, width, p.depth, p.first);
}

// Strips [s0, s1) by panels [p0, p1).
template <class T>
void multiply_block(const Product<T>& p, std::int64_t s0, std::int64_t s1, std::int64_t p0, std::int64_t p1) {
  if (p.shallow()) {
    for (std::int64_t s = s0; s < s1; ++s)
      for (std::int64_t panel = p0; panel < p1; ++panel) multiply_tile(p, s, panel);
    return;
  }
  for (std::int64_t panel = p0; panel < p1; ++panel)
    for (std::int64_t s = s0; s < s1; ++s) multiply_tile(p, s, panel);
}

}  // namespace edfcore::EDF_ISA
