// What the record of the matmuls and their CPU kernels agree on.
#pragma once

#include <cstdint>

namespace edfcore {

// A sum of several products holds no more terms than that their depths add up to this: the parts of the right
// operands that meet stay in the first-level cache.
inline constexpr std::int64_t matmul_sum_depth = 160;

// Bytes for one 32-bit counter for every 16 rows, or fewer; whole cache lines.
#define EDF_MATMUL_COUNTERS(rows) (((rows) + 255) / 256 * 64)

}  // namespace edfcore
