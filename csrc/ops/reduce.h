// What the record of the reductions and their CPU kernels agree on.
#pragma once

#include <cstdint>

namespace edfcore {

// Where there are many terms for each output they are split into parts, which depend on sizes alone: as many
// as make parts of about this many elements, but no more than these, and no more partial results altogether.
inline constexpr std::int64_t reduce_part = 32768;
inline constexpr std::int64_t reduce_most_parts = 64;
inline constexpr std::int64_t reduce_most_partial = 65536;

}  // namespace edfcore
