// For *.cpu.cpp: reading indices and labels of any integer dtype, and reporting the first that is out of
// range.
#pragma once

#include "ops/kernel_cpu.h"

namespace edfcore::EDF_ISA {

inline std::int64_t index_at(const View& view, std::int64_t i) {
  switch (view.dtype) {
    case DType::i32:
      return pointer<const std::int32_t>(view)[i];
    case DType::u8:
      return pointer<const std::uint8_t>(view)[i];
    default:
      return pointer<const std::int64_t>(view)[i];
  }
}

inline bool in_range(std::int64_t index, std::int64_t bound) { return 0 <= index && index < bound; }

// Serial, so that the lowest bad row is the one reported for any number of threads. An earlier report stays.
inline void check_indices(const Launch& launch, std::int32_t input, std::int64_t bound) {
  const View& view = launch.in[input];
  Status* status = launch.status;
  for (std::int64_t i = 0; i < view.size && status->code == Status::ok; ++i) {
    const std::int64_t value = index_at(view, i);
    if (in_range(value, bound)) continue;
    status->op = launch.op;
    status->input = input;
    status->step = launch.step;
    status->row = i;
    status->value = value;
    status->bound = bound;
    status->code = Status::index_out_of_range;
  }
}

}  // namespace edfcore::EDF_ISA
