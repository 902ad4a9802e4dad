// Running ops on half types.
#include "ops/widened.h"

#include <algorithm>
#include <cstddef>

#include "core/small.h"
#include "device/memory.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

constexpr std::int64_t alignment = 256;  // of each part of the scratch

std::int64_t room_for(std::int64_t elements) {
  return (elements * dtype_size(DType::f32) + alignment - 1) / alignment * alignment;
}

bool any_half(std::span<const Spec> specs) {
  return std::any_of(specs.begin(), specs.end(), [](const Spec& spec) { return is_half(spec.dtype); });
}

Small<Spec> widened(std::span<const Spec> specs) {
  Small<Spec> wide;
  for (const Spec& spec : specs) wide.push_back({widened(spec.dtype), spec.shape});
  return wide;
}

Kernel kernel_of(const Op& op, Device device, Isa isa) {
  const Kernel kernel = device.type == DeviceType::cpu ? cpu_kernel(op.cpu, isa) : op.cuda;
  if (!kernel) fail(ErrorKind::device, "[", op.name, "] has no kernel for ", device_name(device), ".");
  return kernel;
}

// Elements [begin, end) of one array, converted to the dtype of the other.
void convert(Kernel cast, const Launch& launch, View from, View to, std::int64_t begin, std::int64_t end) {
  const std::int64_t count = end - begin;
  for (View* view : {&from, &to}) {
    view->data = static_cast<std::byte*>(view->data) + begin * dtype_size(view->dtype);
    view->dims = &count;
    view->rank = 1;
    view->size = count;
  }
  Launch converting = launch;
  converting.in = &from;
  converting.out = &to;
  converting.n_in = converting.n_out = 1;
  converting.tail = nullptr;
  cast(converting);
}

// What goes on when parts of the wide output 0 are complete.
struct Rounding {
  const Launch* asked;
  Kernel cast;
  View wide;

  static void run(void* context, std::int64_t begin, std::int64_t end) {
    const Rounding& r = *static_cast<const Rounding*>(context);
    convert(r.cast, *r.asked, r.wide, r.asked->out[0], begin, end);
    r.asked->tail->run(r.asked->tail->context, begin, end);
  }
};

}  // namespace

bool runs_widened(const Op& op, std::span<const Spec> in, std::span<const Spec> out, DeviceType device) {
  const std::uint32_t takes_halves =
      device == DeviceType::cuda ? op_any_dtype | op_half_on_cuda : op_any_dtype;
  return !(op.flags & takes_halves) && (any_half(in) || any_half(out));
}

Launcher launcher_of(const Op& op, std::span<const Spec> in, std::span<const Spec> out, Device device,
                     Isa isa) {
  const Kernel kernel = kernel_of(op, device, isa);
  if (!runs_widened(op, in, out, device.type)) return {kernel};
  return {kernel, &op, kernel_of(ops::cast, device, isa)};
}

std::int64_t scratch_of(const Op& op, std::span<const Spec> in, std::span<const Spec> out, const Attrs& attrs,
                        DeviceType device) {
  if (!runs_widened(op, in, out, device)) return op.scratch ? op.scratch(in, out, attrs, device) : 0;
  std::int64_t bytes = op.scratch ? op.scratch(widened(in), widened(out), attrs, device) : 0;
  for (const std::span<const Spec> specs : {in, out})
    for (const Spec& spec : specs)
      if (is_half(spec.dtype)) bytes += room_for(spec.shape.size());
  return bytes;
}

// The parts of the scratch: what is wide, and then what the kernel asked for.
void Launcher::run_widened(const Launch& launch) const {
  auto* scratch = static_cast<std::byte*>(launch.scratch);
  const auto widen = [&](View& view) {
    view.dtype = DType::f32;
    view.data = scratch;
    scratch += room_for(view.size);
  };
  Small<View> in, out;
  for (std::int32_t i = 0; i < launch.n_in; ++i) {
    const View& given = launch.in[i];
    View view = given;
    if (is_half(given.dtype)) {
      widen(view);
      const bool read =
          given.data && op->reads(static_cast<std::size_t>(i));  // what is not may still be loaded
      if (read) convert(cast, launch, given, view, 0, given.size);
    }
    in.push_back(view);
  }
  for (std::int32_t i = 0; i < launch.n_out; ++i) {
    View view = launch.out[i];
    if (is_half(view.dtype)) {
      widen(view);
      if (!launch.out[i].data) view.data = nullptr;
      if (op->flags & op_mutates) view.data = in[0].data;
    }
    out.push_back(view);
  }
  Launch wide = launch;
  wide.in = in.data();
  wide.out = out.data();
  wide.scratch = scratch;
  Rounding rounding{&launch, cast, out[0]};
  const Tail tail{Rounding::run, &rounding};
  const bool rounds_parts = launch.tail && is_half(launch.out[0].dtype);
  if (rounds_parts) wide.tail = &tail;
  kernel(wide);
  for (std::int32_t i = rounds_parts ? 1 : 0; i < launch.n_out; ++i)
    if (is_half(launch.out[i].dtype) && out[static_cast<std::size_t>(i)].data)
      convert(cast, launch, out[static_cast<std::size_t>(i)], launch.out[i], 0, launch.out[i].size);
}

Tensor in_dtype(const Tensor& host, DType dtype) {
  if (host.spec.dtype == dtype) return host;
  Tensor made = allocate({dtype, host.spec.shape}, cpu_device);
  const View in = host.view(), out = made.view();
  const Attrs attrs;
  const Launch launch{&in, &out, 1, 1, &attrs, nullptr, nullptr, 0, nullptr};
  kernel_of(ops::cast, cpu_device, current_isa())(launch);
  return made;
}

}  // namespace edfcore
