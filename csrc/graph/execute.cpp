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
#include "graph/watch.h"
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

Runner::Runner(Plan plan)
    : plan_(std::move(plan)),
      device_(&backend(plan_.trace.device)),
      arena_(allocate({DType::u8, Shape{plan_.arena_bytes}}, plan_.trace.device)),
      redirected_(plan_.trace.values.size()) {
  const Trace& trace = plan_.trace;
  const bool on_cpu = trace.device.type == DeviceType::cpu;
  auto* const base = static_cast<std::byte*>(arena_.data());
  for (const TraceStep& step : trace.steps) {
    for (const Small<std::int32_t>* values : {&step.in, &step.out}) {
      for (const std::int32_t v : *values) {
        const Place& place = plan_.places[static_cast<std::size_t>(v)];
        const Spec& spec = trace.values[static_cast<std::size_t>(v)].spec;
        if (place.kind == Place::leaf) leaf_views_.push_back(views_.size());
        views_.push_back({place.kind == Place::arena ? base + place.offset : nullptr, spec.shape.data(),
                          spec.shape.rank(), spec.dtype, spec.shape.size()});
        value_of_view_.push_back(v);
      }
    }
  }
  std::size_t view = 0;  // only now do views stay where they are
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    const Kernel kernel = on_cpu ? cpu_kernel(step.op->cpu) : step.op->cuda;
    if (!kernel)
      fail(ErrorKind::device, "[", step.op->name, "] has no kernel for ", device_name(trace.device), ".");
    void* const scratch = plan_.scratch[s] >= 0 ? base + plan_.scratch[s] : nullptr;
    const Launch launch{views_.data() + view,
                        views_.data() + view + step.in.size(),
                        static_cast<std::int32_t>(step.in.size()),
                        static_cast<std::int32_t>(step.out.size()),
                        &step.attrs,
                        scratch,
                        nullptr,
                        on_cpu ? 0 : ops::index_of(*step.written),
                        nullptr};
    steps_.push_back({plan_.views[s] ? nullptr : kernel, launch, view});
    view += step.in.size() + step.out.size();
  }
}

void Runner::redirect(std::int32_t value, void* data) { redirected_[static_cast<std::size_t>(value)] = data; }

Tensor Runner::value(std::int32_t value) const {
  const Place& place = plan_.places[static_cast<std::size_t>(value)];
  const Spec& spec = plan_.trace.values[static_cast<std::size_t>(value)].spec;
  if (place.kind == Place::leaf)
    return plan_.trace.values[static_cast<std::size_t>(place.offset)].leaf->value().tensor;
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
        redirected_[root] ? redirected_[root] : plan_.trace.values[root].leaf->value().tensor.data();
  }
}

void Runner::run(double learning_rate) {
  bind_leaves();
  for (TraceStep& step : plan_.trace.steps)
    if (step.scalar_is_rate) step.attrs.scalar = learning_rate;
  Status* const status = device_->status();  // of this thread
  void* const stream = device_->stream();
  if (!steps_.empty() && (steps_[0].launch.status != status || steps_[0].launch.stream != stream)) {
    for (Step& step : steps_) {
      step.launch.status = status;
      step.launch.stream = stream;
    }
  }
  const bool on_cpu = plan_.trace.device.type == DeviceType::cpu;
  for (const Group& group : plan_.groups) {
    const Step& step = steps_[static_cast<std::size_t>(group.first)];
    if (group.blocked)
      run_blocked(group);
    else if (step.kernel && !watch().on)
      step.kernel(step.launch);
    else if (step.kernel)
      run_watched(static_cast<std::size_t>(group.first));
    if (!on_cpu || status->code == Status::ok) continue;
    const Status met = device_->take_status();
    const TraceStep& traced = plan_.trace.steps[static_cast<std::size_t>(group.first)];
    fail(ErrorKind::data, status_text(*traced.written, met), traced.place);
  }
}

void Runner::run_watched(std::size_t s) {
  const TraceStep& traced = plan_.trace.steps[s];
  const Launch& launch = steps_[s].launch;
  const Watched watched(*traced.written, "plan", plan_.trace.device);
  steps_[s].kernel(launch);
  try {
    watched.ended({launch.in, static_cast<std::size_t>(launch.n_in)},
                  {launch.out, static_cast<std::size_t>(launch.n_out)});
  } catch (const Error& error) {
    throw Error(error.kind(), error.what() + traced.place);
  }
}

// Every block goes through all steps of the group before the next one begins.
void Runner::run_blocked(const Group& group) {
  const auto first = static_cast<std::size_t>(group.first), last = static_cast<std::size_t>(group.last);
  const std::size_t view_begin = steps_[first].first_view;
  const std::size_t view_end = last < steps_.size() ? steps_[last].first_view : views_.size();
  struct Context {
    const Runner* runner;
    std::size_t first, last, buffers;
    std::int64_t size;
  } context{this, first, last, 0, views_[view_begin].size};
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
      const Step& step = r.steps_[s];
      const auto n_in = static_cast<std::size_t>(step.launch.n_in);
      Small<View> views;
      for (std::size_t i = 0; i < n_in + static_cast<std::size_t>(step.launch.n_out); ++i) {
        const std::size_t at = step.first_view + i;
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
      Launch launch = step.launch;
      launch.in = views.data();
      launch.out = views.data() + n_in;
      step.kernel(launch);
    }
  };
  parallel_chunks((context.size + block_elements - 1) / block_elements, task, &context);
}

}  // namespace edfcore
