// Tensors in a device's own memory, and moving them between devices.
#include "device/memory.h"

namespace edfcore {
namespace {

void give_back(Buffer& buffer) { static_cast<Backend*>(buffer.owner)->release(buffer.data, buffer.bytes); }

}  // namespace

Tensor allocate(const Spec& spec, Device device) {
  Backend& owner = backend(device);
  const std::size_t bytes = spec.bytes();
  void* data = owner.allocate(bytes);
  return {spec, borrow(data, bytes, device, give_back, &owner)};
}

Tensor zeros(const Spec& spec, Device device) {
  Tensor tensor = allocate(spec, device);
  if (spec.bytes() > 0) backend(device).fill(tensor.data(), 0, spec.bytes());
  return tensor;
}

void copy_into(const Tensor& to, const Tensor& from) {
  const std::size_t bytes = from.spec.bytes();
  if (bytes == 0) return;
  if (to.device().type == from.device().type)
    backend(to.device()).copy(to.data(), from.data(), bytes);
  else if (from.device().type == DeviceType::cpu)
    backend(to.device()).upload(to.data(), from.data(), bytes);
  else
    backend(from.device()).download(to.data(), from.data(), bytes);
}

Tensor copy_to(const Tensor& tensor, Device device) {
  Tensor copy = allocate(tensor.spec, device);
  copy_into(copy, tensor);
  return copy;
}

}  // namespace edfcore
