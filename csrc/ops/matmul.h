// What the record of the matmuls and their CPU kernels agree on.
#pragma once

#include <cstdint>

namespace edfcore {

// A sum of several products holds no more terms than that their depths add up to this: the parts of the right
// operands that meet stay in the first-level cache.
inline constexpr std::int64_t matmul_sum_depth = 160;

// So much of the depth at a time is copied and multiplied: a panel's share stays in the second-level cache.
inline constexpr std::int64_t matmul_depth_block = 1024;

// Fewer rows do not repay the copying of the right operand, and fewer columns not that of the left one.
inline constexpr std::int64_t matmul_unpacked = 96;

// Rows of the left operand that lie a multiple of a large power of two apart compete for the same cache
// lines, so they are copied.
#define EDF_MATMUL_PACKS_LEFT(columns, trans_a, row_bytes) \
  ((columns) > matmul_unpacked && ((trans_a) || (row_bytes) % 1024 == 0))

// Bytes for one 32-bit counter for every 16 rows, or fewer; whole cache lines.
#define EDF_MATMUL_COUNTERS(rows) (((rows) + 255) / 256 * 64)

}  // namespace edfcore
