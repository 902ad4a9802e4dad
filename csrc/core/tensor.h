// Tensor: dense, row-major, on one device, of one dtype. No strides: layout questions are attributes of ops.
#pragma once

#include "core/buffer.h"
#include "core/kernel.h"
#include "core/shape.h"

namespace edfcore {

struct Spec {
  DType dtype = DType::f32;
  Shape shape;

  std::size_t bytes() const { return static_cast<std::size_t>(shape.size() * dtype_size(dtype)); }
  friend bool operator==(const Spec&, const Spec&) = default;
};

struct Tensor {
  Spec spec;
  BufferRef buffer;  // null: no value

  explicit operator bool() const { return static_cast<bool>(buffer); }
  void* data() const { return buffer->data; }
  Device device() const { return buffer->device; }
  View view() const {
    return {buffer->data, spec.shape.data(), spec.shape.rank(), spec.dtype, spec.shape.size()};
  }
};

}  // namespace edfcore
