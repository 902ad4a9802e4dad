// Element types. Plain data: kernels compiled once per instruction set include this header.
#pragma once

#include <cstdint>

namespace edfcore {

enum class DType : std::uint8_t { f32, f64, i32, i64, u8, b1, bf16, f16 };

struct DTypeInfo {
  const char* name;
  std::int64_t size;  // bytes of one element
  bool floating;
};

// Indexed by DType.
inline constexpr DTypeInfo dtype_table[] = {
    {"float32", 4, true}, {"float64", 8, true}, {"int32", 4, false},   {"int64", 8, false},
    {"uint8", 1, false},  {"bool", 1, false},   {"bfloat16", 2, true}, {"float16", 2, true},
};

constexpr const char* dtype_name(DType d) { return dtype_table[static_cast<int>(d)].name; }
constexpr std::int64_t dtype_size(DType d) { return dtype_table[static_cast<int>(d)].size; }
constexpr bool is_floating(DType d) { return dtype_table[static_cast<int>(d)].floating; }
constexpr bool is_half(DType d) { return d == DType::bf16 || d == DType::f16; }
// What the numbers of a dtype are computed in.
constexpr DType widened(DType d) { return is_half(d) ? DType::f32 : d; }

}  // namespace edfcore
