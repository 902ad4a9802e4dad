// How float32 matrices are multiplied on a CUDA device: a setting of the process, which every launch reads.
#pragma once

#include <cstdint>
#include <string>

namespace edfcore {

// By multiply-adds; by tensor cores, three products of TF32 for one of float32; or by a single one.
enum class Float32Matmul : std::uint8_t { exact, high, medium };

Float32Matmul float32_matmul();
const char* float32_matmul_name(Float32Matmul how);
// Throws a data error, which names the choices, for another name.
void set_float32_matmul(const std::string& name);

}  // namespace edfcore
