// Kernels compute in float32 and float64. On half types an op runs widened: its half inputs are converted to
// float32 in scratch, its kernel runs on those, and what it makes is rounded once. Whoever runs an op asks
// here for its kernel and its scratch, so that every mode gives the same bits.
#pragma once

#include <span>

#include "core/tensor.h"
#include "ops/cpu_features.h"
#include "ops/op.h"

namespace edfcore {

struct Launcher {
  Kernel kernel = nullptr;
  const Op* op = nullptr;  // null: the kernel takes its arguments as they are
  Kernel cast = nullptr;

  explicit operator bool() const { return kernel != nullptr; }
  void operator()(const Launch& launch) const { op ? run_widened(launch) : kernel(launch); }

 private:
  void run_widened(const Launch& launch) const;
};

bool runs_widened(const Op& op, std::span<const Spec> in, std::span<const Spec> out, DeviceType device);

// What runs the op on such inputs. Throws a device error where there is no kernel.
Launcher launcher_of(const Op& op, std::span<const Spec> in, std::span<const Spec> out, Device device,
                     Isa isa);

// Bytes of scratch that it needs.
std::int64_t scratch_of(const Op& op, std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                        DeviceType device);

// A copy of host memory in another dtype, by the engine's own cast.
Tensor in_dtype(const Tensor& host, DType dtype);

}  // namespace edfcore
