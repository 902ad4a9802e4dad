// What the record of the matmuls and their CPU kernels agree on. The functions are static: each kernel file
// has its own.
#pragma once

#include <cstdint>

namespace edfcore {

// A sum of several products holds no more terms than that their depths add up to this: the parts of the right
// operands that meet stay in the first-level cache.
inline constexpr std::int64_t matmul_sum_depth = 160;

// On the CPU, a product that is added to something is done in one, up to this depth; beyond it none is fused
// with an update.
inline constexpr std::int64_t matmul_depth_block = 1024;

// Fewer rows do not repay the copying of the right operand, and fewer columns not that of the left one.
inline constexpr std::int64_t matmul_unpacked = 96;
inline constexpr std::int64_t matmul_unpacked_far =
    24;  // of a right operand that is larger than caches nearby

inline constexpr std::int64_t matmul_near = 1 << 20;  // bytes of the largest that nearby caches hold

// Of a right operand of `bytes` bytes.
[[maybe_unused]] static constexpr bool matmul_packs_right(std::int64_t rows, bool trans_b,
                                                          std::int64_t bytes) {
  return trans_b || rows > (bytes > matmul_near ? matmul_unpacked_far : matmul_unpacked);
}

// Rows of the left operand that lie a multiple of a large power of two apart compete for the same cache
// lines, so they are copied; so are those that meet many columns.
[[maybe_unused]] static constexpr bool matmul_packs_left(std::int64_t rows, std::int64_t columns,
                                                         bool trans_a, std::int64_t row_bytes) {
  return rows > 12 && columns > matmul_unpacked && (trans_a || row_bytes % 1024 == 0 || columns >= 1024);
}

// Others are done in equal parts of the depth. Of a right operand that is copied, what is copied at once is
// about twice as large as the result, or small, or so deep that the result is not read too often.
[[maybe_unused]] static constexpr std::int64_t matmul_depth_at_once(std::int64_t depth, std::int64_t rows,
                                                                    std::int64_t columns, bool copied) {
  const std::int64_t small = 65536 / columns, large = 2 * rows > 256 ? 2 * rows : 256;
  const std::int64_t wanted = small > large ? small : large;
  const std::int64_t most = copied && wanted < matmul_depth_block ? wanted : matmul_depth_block;
  if (depth <= most) return depth;
  const std::int64_t parts = (depth + most - 1) / most;
  return (depth + parts - 1) / parts;
}

// So many vectors of `bytes` bytes at once, or one tile's, in whole tiles.
[[maybe_unused]] static constexpr std::int64_t matmul_whole_tiles(std::int64_t room, std::int64_t bytes,
                                                                  std::int64_t tile) {
  const std::int64_t tiles = bytes > 0 ? room / (tile * bytes) : room;
  return (tiles > 1 ? tiles : 1) * tile;
}

// What is copied at once: rows of the left operand, more of them where a large right one goes by each time,
// and columns of the right one, all where the left one would be transposed, or copied very often, anew for
// each part. Tiles of all instruction sets divide these. `bytes`: of one row, or one column, of a part.
[[maybe_unused]] static constexpr std::int64_t matmul_rows_at_once(std::int64_t columns, std::int64_t bytes) {
  const std::int64_t right = columns * bytes, least = 1 << 18, most = 3 << 18;
  return matmul_whole_tiles(right < least ? least : right > most ? most : right, bytes, 60);
}
[[maybe_unused]] static constexpr std::int64_t matmul_columns_at_once(std::int64_t columns, std::int64_t rows,
                                                                      bool packs_left, bool trans_a,
                                                                      std::int64_t bytes) {
  const std::int64_t most = matmul_whole_tiles(1 << 20, bytes, 64);
  const bool anew = packs_left && rows > matmul_rows_at_once(columns, bytes);
  if (anew && (!trans_a || columns > 4 * most)) return columns;
  return columns < most ? columns : most;
}

// Bytes for one 32-bit counter for every 16 rows, or fewer; whole cache lines.
[[maybe_unused]] static constexpr std::int64_t matmul_counters(std::int64_t rows) {
  return (rows + 255) / 256 * 64;
}

}  // namespace edfcore
