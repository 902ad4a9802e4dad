// Tensors in a device's own memory, and moving them between devices.
#pragma once

#include "core/tensor.h"
#include "device/backend.h"

namespace edfcore {

// Contents undefined. Throws a memory error.
Tensor allocate(const Spec& spec, Device device);

// The same, filled with zeros.
Tensor zeros(const Spec& spec, Device device);

// A copy of `tensor` in fresh memory on `device`.
Tensor copy_to(const Tensor& tensor, Device device);

// Copies the contents, which have the same size in bytes, into existing memory.
void copy_into(const Tensor& to, const Tensor& from);

}  // namespace edfcore
