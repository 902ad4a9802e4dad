// Values all of whose elements are one known number: the plan holds them, or fills them in.
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "device/memory.h"
#include "graph/plan.h"
#include "ops/ops.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

constexpr std::size_t most_held = 256 << 10;  // bytes of a value that the plan holds

// What a step makes of inputs of whose elements one is known, in an array of one; nothing where it is not.
Tensor element_of(const Trace& trace, const TraceStep& step, const std::vector<Tensor>& known) {
  Small<View> in;
  Small<Spec> specs;
  const Shape one;
  for (std::size_t i = 0; i < step.in.size(); ++i) {
    const Tensor& element = known[static_cast<std::size_t>(step.in[i])];
    if (step.op->reads(i) && !element) return {};
    const DType dtype = spec_of(trace, step.in[i]).dtype;
    specs.push_back({dtype, one});
    in.push_back(element ? element.view() : View{nullptr, one.data(), 0, dtype, 1});
  }
  if (!(step.op->flags & op_elementwise)) return known[static_cast<std::size_t>(step.in[0])];
  Tensor made = allocate({spec_of(trace, step.out[0]).dtype, one}, cpu_device);
  const std::int64_t bytes = scratch_of(*step.op, specs, {&made.spec, 1}, step.attrs, DeviceType::cpu);
  const Tensor scratch = allocate({DType::u8, Shape{bytes}}, cpu_device);
  const View out = made.view();
  const Launch launch{in.data(), &out,        static_cast<std::int32_t>(in.size()),
                      1,         &step.attrs, scratch.data(),
                      nullptr,   0,           nullptr};
  launcher_of(*step.op, specs, {&made.spec, 1}, cpu_device, current_isa())(launch);
  return made;
}

Tensor filled(const Tensor& element, const Spec& spec, Device device) {
  Tensor host = allocate(spec, cpu_device);
  const auto size = static_cast<std::size_t>(dtype_size(spec.dtype));
  for (std::size_t at = 0; at < spec.bytes(); at += size)
    std::memcpy(static_cast<std::byte*>(host.data()) + at, element.data(), size);
  return copy_to(host, device);
}

}  // namespace

void fold(Trace& trace) {
  std::vector<Tensor> known(trace.values.size());  // an element of each value
  std::vector<bool> read(trace.values.size());     // by a step that goes on
  const auto at = [](std::int32_t value) { return static_cast<std::size_t>(value); };
  for (const TraceStep& step : trace.steps) {
    const TraceValue& made = trace.values[at(step.out[0])];
    const bool may_go = (step.op->flags & op_uniform) && made.slot < 0 && is_floating(made.spec.dtype);
    if (may_go) known[at(step.out[0])] = element_of(trace, step, known);
    if (known[at(step.out[0])]) continue;
    for (std::size_t i = 0; i < step.in.size(); ++i)
      if (step.op->reads(i)) read[at(step.in[i])] = true;
  }
  std::map<std::vector<std::int64_t>, std::int32_t> held;  // slots, by element, dtype and shape
  const auto hold = [&](const Tensor& element, const Spec& spec) {
    std::vector<std::int64_t> key(2, 0);
    std::memcpy(key.data(), element.data(), static_cast<std::size_t>(dtype_size(spec.dtype)));
    key[1] = static_cast<std::int64_t>(spec.dtype);
    key.insert(key.end(), spec.shape.data(), spec.shape.data() + spec.shape.rank());
    const auto [found, is_new] = held.emplace(std::move(key), static_cast<std::int32_t>(trace.slots.size()));
    if (is_new) trace.slots.push_back({Role::constant, filled(element, spec, trace.device)});
    return found->second;
  };
  for (TraceStep& step : trace.steps) {
    const std::size_t made = at(step.out[0]);
    if (!known[made]) continue;
    const Spec spec = trace.values[made].spec;
    if (read[made] && spec.bytes() > most_held) {
      const Tensor wide = in_dtype(known[made], DType::f64);
      step.op = &ops::fill_like;
      step.attrs = {};
      step.attrs.scalar = *static_cast<const double*>(wide.data());
      step.in = {};
      step.in.push_back(static_cast<std::int32_t>(trace.values.size()));
      trace.values.push_back({spec});  // for its shape
      continue;
    }
    step.op = nullptr;
    if (!read[made]) continue;
    trace.values[made].slot = hold(known[made], spec);
  }
  std::erase_if(trace.steps, [](const TraceStep& step) { return !step.op; });
}

}  // namespace edfcore
