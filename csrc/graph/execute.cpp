// Running a plan.
#include "graph/execute.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "device/memory.h"
#include "graph/run.h"
#include "ops/cpu_features.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

constexpr std::size_t block_bytes =
    static_cast<std::size_t>(block_elements) * 8;  // of a buffer, for any dtype

// A thread's own buffers for what a blocked group hands from step to step.
class Blocks {
 public:
  ~Blocks() { ::operator delete(memory_, std::align_val_t{64}); }
  std::byte* buffers(std::size_t count) {
    if (count > count_) {
      ::operator delete(std::exchange(memory_, nullptr), std::align_val_t{64});
      count_ = 0;
      memory_ = ::operator new(count * block_bytes, std::align_val_t{64});
      count_ = count;
    }
    return static_cast<std::byte*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  std::size_t count_ = 0;
};

thread_local Blocks blocks;

}  // namespace

Runner::Runner(Plan plan) : plan_(std::move(plan)), redirected_(plan_.trace.values.size()) {
  const Trace& trace = plan_.trace;
  arena_ = allocate({DType::u8, Shape{plan_.arena_bytes}}, trace.device);
  auto* const base = static_cast<std::byte*>(arena_.data());
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    const bool on_cpu = trace.device.type == DeviceType::cpu;
    Step bound{on_cpu ? cpu_kernel(step.op->cpu) : step.op->cuda, static_cast<std::int32_t>(views_.size()),
               static_cast<std::int32_t>(views_.size() + step.in.size()),
               plan_.scratch[s] >= 0 ? base + plan_.scratch[s] : nullptr};
    if (!bound.kernel)
      fail(ErrorKind::device, "[", step.op->name, "] has no kernel for ", device_name(trace.device), ".");
    for (const Small<std::int32_t>* values : {&step.in, &step.out}) {
      for (const std::int32_t v : *values) {
        const Place& place = plan_.places[static_cast<std::size_t>(v)];
        const Spec& spec = trace.values[static_cast<std::size_t>(v)].spec;
        views_.push_back({place.kind == Place::arena ? base + place.offset : nullptr, spec.shape.data(),
                          spec.shape.rank(), spec.dtype, spec.shape.size()});
        if (place.kind == Place::leaf) leaf_views_.push_back(value_of_view_.size());
        value_of_view_.push_back(v);
      }
    }
    steps_.push_back(bound);
  }
}

void Runner::redirect(std::int32_t value, void* data) { redirected_[static_cast<std::size_t>(value)] = data; }

Tensor Runner::value(std::int32_t value) const {
  const Place& place = plan_.places[static_cast<std::size_t>(value)];
  const Spec& spec = plan_.trace.values[static_cast<std::size_t>(value)].spec;
  if (place.kind == Place::leaf)
    return plan_.trace.values[static_cast<std::size_t>(place.offset)].leaf->value().on_device();
  retain(arena_.buffer.get());  // the part of the arena keeps the whole
  const auto give_back = [](Buffer& part) { release(static_cast<Buffer*>(part.owner)); };
  return {spec, borrow(static_cast<std::byte*>(arena_.data()) + place.offset, spec.bytes(), arena_.device(),
                       give_back, arena_.buffer.get())};
}

void Runner::bind_leaves() {
  for (const std::size_t i : leaf_views_) {
    const auto root =
        static_cast<std::size_t>(plan_.places[static_cast<std::size_t>(value_of_view_[i])].offset);
    views_[i].data =
        redirected_[root] ? redirected_[root] : plan_.trace.values[root].leaf->value().on_device().data();
  }
}

void Runner::run(double learning_rate) {
  bind_leaves();
  for (TraceStep& step : plan_.trace.steps)
    if (step.scalar_is_rate) step.attrs.scalar = learning_rate;
  Backend& device = backend(plan_.trace.device);
  const bool on_cpu = plan_.trace.device.type == DeviceType::cpu;
  for (const Group& group : plan_.groups) {
    if (group.blocked)
      run_blocked(group);
    else
      run_step(static_cast<std::size_t>(group.first));
    if (!on_cpu || device.status()->code == Status::ok) continue;
    const Status status = device.take_status();
    const TraceStep& step = plan_.trace.steps[static_cast<std::size_t>(group.first)];
    fail(ErrorKind::data, status_text(*step.written, status), step.place);
  }
}

void Runner::run_step(std::size_t s) {
  if (plan_.views[s]) return;
  const TraceStep& step = plan_.trace.steps[s];
  const Step& bound = steps_[s];
  Backend& device = backend(plan_.trace.device);
  const bool on_cpu = plan_.trace.device.type == DeviceType::cpu;
  bound.kernel({views_.data() + bound.first_in, views_.data() + bound.first_out,
                static_cast<std::int32_t>(step.in.size()), static_cast<std::int32_t>(step.out.size()),
                &step.attrs, bound.scratch, device.status(), on_cpu ? 0 : ops::index_of(*step.written),
                device.stream()});
}

// Every block goes through all steps of the group before the next one begins.
void Runner::run_blocked(const Group& group) {
  const auto first = static_cast<std::size_t>(group.first), last = static_cast<std::size_t>(group.last);
  const auto view_begin = static_cast<std::size_t>(steps_[first].first_in);
  const std::size_t view_end =
      last < steps_.size() ? static_cast<std::size_t>(steps_[last].first_in) : views_.size();
  struct Context {
    const Runner* runner;
    std::size_t first, last, view_begin, view_end, buffers;
    std::int64_t size;
    Status* status;
  } context{this,
            first,
            last,
            view_begin,
            view_end,
            0,
            views_[view_begin].size,
            backend(plan_.trace.device).status()};
  for (std::size_t i = view_begin; i < view_end; ++i) {
    const Place& place = plan_.places[static_cast<std::size_t>(value_of_view_[i])];
    if (place.kind == Place::block)
      context.buffers = std::max(context.buffers, static_cast<std::size_t>(place.offset) + 1);
  }
  const auto task = [](void* p, std::int64_t chunk) {
    const Context& c = *static_cast<const Context*>(p);
    const Runner& r = *c.runner;
    const std::int64_t begin = chunk * block_elements;
    const std::int64_t length = std::min(block_elements, c.size - begin);
    std::byte* const buffers = blocks.buffers(c.buffers);
    for (std::size_t s = c.first; s < c.last; ++s) {
      const TraceStep& step = r.plan_.trace.steps[s];
      Small<View> views;
      for (std::size_t i = 0; i < step.in.size() + step.out.size(); ++i) {
        const auto at = static_cast<std::size_t>(r.steps_[s].first_in) + i;
        View view = r.views_[at];
        const Place& place = r.plan_.places[static_cast<std::size_t>(r.value_of_view_[at])];
        view.data = place.kind == Place::block
                        ? buffers + static_cast<std::size_t>(place.offset) * block_bytes
                        : static_cast<std::byte*>(view.data) + begin * dtype_size(view.dtype);
        view.dims = &length;
        view.rank = 1;
        view.size = length;
        views.push_back(view);
      }
      r.steps_[s].kernel(
          {views.data(), views.data() + step.in.size(), static_cast<std::int32_t>(step.in.size()),
           static_cast<std::int32_t>(step.out.size()), &step.attrs, nullptr, c.status, 0, nullptr});
    }
  };
  parallel_chunks((context.size + block_elements - 1) / block_elements, task, &context);
}

}  // namespace edfcore
