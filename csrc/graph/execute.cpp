// Running a plan.
#include "graph/execute.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "core/error.h"
#include "device/memory.h"
#include "graph/run.h"
#include "graph/watch.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

// All plans of a device take turns in one arena, which is as large as the largest of those needs that ran
// last.
class Arena {
 public:
  // `begins`: nothing in it is still to be read.
  void* of_size(std::int64_t bytes, Device device, bool begins) {
    needed_ = std::max(needed_, bytes);
    const bool grows = !memory_ || size() < bytes, settles = begins && ++runs_ >= settles_after;
    if (grows || (settles && needed_ < size())) {
      memory_ = {};
      memory_ = allocate({DType::u8, Shape{needed_}}, device);
    }
    if (grows || settles) runs_ = needed_ = 0;
    return memory_.data();
  }

 private:
  static constexpr std::int64_t settles_after = 32;  // runs: the first ones of a program keep more

  std::int64_t size() const { return static_cast<std::int64_t>(memory_.buffer->bytes); }

  Tensor memory_;
  std::int64_t needed_ = 0, runs_ = 0;
};

Arena& shared_arena(Device device) {
  static auto* const arenas = new std::map<std::pair<DeviceType, int>, Arena>;  // outlive the interpreter
  return (*arenas)[{device.type, device.index}];
}

std::string place_of(const TraceStep& step, std::span<const NodeRef> nodes) {
  return step.node < 0 ? "" : made_at(*nodes[static_cast<std::size_t>(step.node)]);
}

constexpr double to_begin = 1e3;  // a group, in operations and bytes

}  // namespace

void release_arena(Device device) { shared_arena(device) = {}; }

Runner::Runner(Plan plan)
    : plan_(std::move(plan)),
      device_(&backend(plan_.trace.device)),
      bound_(plan_.trace.slots.size()),
      at_slot_(plan_.trace.slots.size()) {
  const Trace& trace = plan_.trace;
  const bool on_cpu = trace.device.type == DeviceType::cpu;
  std::size_t views = 0;
  for (const TraceStep& step : trace.steps) views += step.in.size() + step.out.size();
  views_.reserve(views);
  value_of_view_.reserve(views);
  steps_.reserve(trace.steps.size());
  for (const TraceStep& step : trace.steps) {
    for (const Small<std::int32_t>* values : {&step.in, &step.out}) {
      for (const std::int32_t v : *values) {
        const Place& place = plan_.places[static_cast<std::size_t>(v)];
        const Spec& spec = trace.values[static_cast<std::size_t>(v)].spec;
        if (place.kind == Place::slot)
          at_slot_[static_cast<std::size_t>(place.offset)].push_back(views_.size());
        views_.push_back({nullptr, spec.shape.data(), spec.shape.rank(), spec.dtype, spec.shape.size()});
        value_of_view_.push_back(v);
      }
    }
  }
  std::size_t view = 0;
  for (std::size_t s = 0; s < trace.steps.size(); ++s) {
    const TraceStep& step = trace.steps[s];
    const Launch launch{views_.data() + view,
                        views_.data() + view + step.in.size(),
                        static_cast<std::int32_t>(step.in.size()),
                        static_cast<std::int32_t>(step.out.size()),
                        &step.attrs,
                        nullptr,
                        nullptr,
                        on_cpu ? 0 : ops::index_of(*step.written),
                        nullptr};
    steps_.push_back({{}, launch, view});
    steps_.back().launch.step = static_cast<std::int32_t>(s);
    names_.push_back(step.written->name);
    view += step.in.size() + step.out.size();
    if (step.update >= 0) updates_.push_back(s);
  }
  for (std::size_t slot = 0; slot < trace.slots.size(); ++slot)
    if (trace.slots[slot].constant) bind(static_cast<std::int32_t>(slot), trace.slots[slot].constant.data());
  choose_kernels(current_isa());
  settle_groups();
}

void Runner::choose_kernels(Isa isa) {
  const Device device = plan_.trace.device;
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    if (plan_.views[s]) continue;
    const TraceStep& step = plan_.trace.steps[s];
    steps_[s].kernel =
        launcher_of(*step.op, specs_of(plan_.trace, step.in), specs_of(plan_.trace, step.out), device, isa);
  }
  isa_ = isa;
}

// Where phases end, and where there may be a look at signals: not after an update.
void Runner::settle_groups() {
  double work = 0;
  bool updated = false;
  for (std::size_t g = 0; g < plan_.groups.size(); ++g) {
    const Group& group = plan_.groups[g];
    for (std::int32_t s = group.first; s < group.last; ++s) {
      const TraceStep& step = plan_.trace.steps[static_cast<std::size_t>(s)];
      phase_end_[static_cast<std::size_t>(step.phase)] = g + 1;
      updated |= (step.op->flags & op_mutates) != 0;
    }
    double own = to_begin;
    for (std::int32_t s = group.first; s < group.last; ++s) own += about(static_cast<std::size_t>(s));
    work_ += own;
    if (updated) continue;
    if (work > poll_after) {
      polls_.push_back(g);
      work = 0;
    }
    work += own;
  }
  phase_end_[1] = std::max(phase_end_[0], phase_end_[1]);
  phase_end_[2] = plan_.groups.size();
}

// About how much a step does, in operations and bytes.
double Runner::about(std::size_t s) const {
  const TraceStep& step = plan_.trace.steps[s];
  const Launch& launch = steps_[s].launch;
  std::int64_t sum = 0;
  for (const std::span<const View> views : {std::span(launch.in, static_cast<std::size_t>(launch.n_in)),
                                            std::span(launch.out, static_cast<std::size_t>(launch.n_out))})
    for (const View& view : views) sum += view.size * (1 + dtype_size(view.dtype));
  if (!step.op->flops) return static_cast<double>(sum);
  return static_cast<double>(
      sum + step.op->flops(specs_of(plan_.trace, step.in), specs_of(plan_.trace, step.out), step.attrs));
}

void Runner::rebind(std::int32_t slot, void* data) {
  bound_[static_cast<std::size_t>(slot)] = data;
  for (const std::size_t i : at_slot_[static_cast<std::size_t>(slot)]) views_[i].data = data;
}

void Runner::bind(std::span<const NodeRef> leaves) {
  for (std::size_t slot = 0; slot < leaves.size(); ++slot)
    if (leaves[slot]) bind(static_cast<std::int32_t>(slot), leaves[slot]->value().tensor.data());
}

void Runner::bind(std::span<const PartSlot> parts, const Updating& updating) {
  for (const PartSlot& part : parts)
    bind(part.slot, updating.read(static_cast<std::size_t>(part.update), part.part).data());
}

void Runner::move_to(void* arena) {
  arena_ = arena;
  auto* const base = static_cast<std::byte*>(arena);
  for (std::size_t i = 0; i < views_.size(); ++i) {
    const Place& place = plan_.places[static_cast<std::size_t>(value_of_view_[i])];
    if (place.kind == Place::arena) views_[i].data = base + place.offset;
  }
  for (std::size_t s = 0; s < steps_.size(); ++s)
    if (plan_.scratch[s] >= 0) steps_[s].launch.scratch = base + plan_.scratch[s];
}

void Runner::run(std::span<const NodeRef> nodes, std::span<const Scalars> updates, Phase first, Phase last,
                 Poll poll, const Runs& runs) {
  const Device device = plan_.trace.device;
  void* const arena = shared_arena(device).of_size(plan_.arena_bytes, device, first == Phase::forward);
  if (arena != arena_) move_to(arena);
  if (const Isa isa = current_isa(); isa != isa_) choose_kernels(isa);
  if (last == Phase::update) give_numbers(updates, runs.count);
  Status* const status = device_->status();  // of this thread
  void* const stream = device_->stream();
  if (!steps_.empty() && (steps_[0].launch.status != status || steps_[0].launch.stream != stream)) {
    for (Step& step : steps_) {
      step.launch.status = status;
      step.launch.stream = stream;
    }
  }
  const bool on_cpu = plan_.trace.device.type == DeviceType::cpu;
  const std::size_t begin = first == Phase::forward ? 0 : phase_end_[static_cast<std::size_t>(first) - 1];
  const std::size_t end = phase_end_[static_cast<std::size_t>(last)];
  move_on(runs, 0);
  if (!on_cpu && !watch().on) {
    if (poll) poll();
    if (repeat(begin, end, runs)) return;
  }
  for (std::int64_t run = 0; run < runs.count; ++run) {
    move_on(runs, run);
    auto next_poll = poll ? std::lower_bound(polls_.begin(), polls_.end(), begin) : polls_.end();
    for (std::size_t g = begin; g < end; ++g) {
      if (next_poll != polls_.end() && *next_poll == g) {
        poll();
        ++next_poll;
      }
      run_group(plan_.groups[g], nodes);
      if (!on_cpu) device_->launched(names_of(g, g + 1));
      if (on_cpu && status->code != Status::ok) raise(device_->take_status(), nodes);
    }
  }
}

void Runner::raise(const Status& met, std::span<const NodeRef> nodes) const {
  if (met.step < 0 || static_cast<std::size_t>(met.step) >= steps_.size())  // of something else than a plan
    fail(ErrorKind::data, status_text(op_of(met), met));
  const TraceStep& traced = plan_.trace.steps[static_cast<std::size_t>(met.step)];
  fail(ErrorKind::data, status_text(*traced.written, met), place_of(traced, nodes));
}

// To one of several runs.
void Runner::move_on(const Runs& runs, std::int64_t run) {
  const auto n = static_cast<std::size_t>(run);
  for (const Runs::Moving& moving : runs.moving)
    bind(moving.slot, static_cast<std::byte*>(moving.data) + n * moving.stride);
  if (numbers_)
    for (const std::size_t s : updates_)
      steps_[s].launch.numbers = static_cast<const double*>(numbers_.data()) + n * numbers_stride_ +
                                 2 * static_cast<std::size_t>(plan_.trace.steps[s].update);
  if (runs.number)
    for (Step& step : steps_) step.launch.run = runs.number + n * runs.number_stride;
}

// To a GPU's memory they go in the order of its work, behind whatever reads those of the step before.
void Runner::give_numbers(std::span<const Scalars> updates, std::int64_t runs) {
  static_assert(sizeof(Scalars) == 2 * sizeof(double));
  const bool on_cpu = plan_.trace.device.type == DeviceType::cpu;
  if (updates_.empty()) return;
  for (const std::size_t s : updates_) {
    TraceStep& step = plan_.trace.steps[s];
    step.attrs.scalar = updates[static_cast<std::size_t>(step.update)].first;
    step.attrs.scalar2 = updates[static_cast<std::size_t>(step.update)].second;
  }
  if (on_cpu) return;
  const auto count = static_cast<std::int64_t>(2 * updates.size());
  numbers_stride_ = static_cast<std::size_t>(count / runs);
  if (updates.size() <= given_.size() && std::equal(updates.begin(), updates.end(), given_.begin())) return;
  if (!numbers_ || numbers_.spec.shape.size() < count)
    numbers_ = allocate({DType::f64, Shape{count}}, plan_.trace.device);
  given_.clear();
  device_->upload(numbers_.data(), updates.data(), updates.size_bytes());
  given_.assign(updates.begin(), updates.end());
}

// True when the device has made these runs by repeating them.
bool Runner::repeat(std::size_t begin, std::size_t end, const Runs& runs) {
  if (end - begin < 2 || steps_.empty()) return false;
  if (!recordings_) recordings_ = std::make_unique<Recordings>(*device_);
  Recordings::Key key{.arena = arena_,
                      .status = steps_[0].launch.status,
                      .numbers = numbers_ ? numbers_.data() : nullptr,
                      .number = runs.number,
                      .runs = runs.count,
                      .begin = begin,
                      .end = end,
                      .bound = bound_};
  struct Part {
    Runner* runner;
    std::size_t begin, end;
    const Runs& runs;
  } part{this, begin, end, runs};
  const auto issue = [](void* p) {
    const Part& of = *static_cast<const Part*>(p);
    for (std::int64_t run = 0; run < of.runs.count; ++run) {
      of.runner->move_on(of.runs, run);
      for (std::size_t g = of.begin; g < of.end; ++g) of.runner->run_group(of.runner->plan_.groups[g], {});
    }
  };
  if (!recordings_->repeat(std::move(key), issue, &part)) return false;
  device_->launched(names_of(begin, end));
  return true;
}

std::span<const char* const> Runner::names_of(std::size_t begin, std::size_t end) const {
  const auto first = static_cast<std::size_t>(plan_.groups[begin].first);
  const auto last = static_cast<std::size_t>(plan_.groups[end - 1].last);
  return std::span(names_).subspan(first, last - first);
}

void Runner::run_group(const Group& group, std::span<const NodeRef> nodes) {
  const auto s = static_cast<std::size_t>(group.first);
  if (group.blocked) {
    plan_.trace.device.type == DeviceType::cpu ? run_blocked(group) : run_chain(group);
    if (watch().on)
      for (std::int32_t each = group.first; each < group.last; ++each)
        look_at(static_cast<std::size_t>(each), nodes);
  } else if (group.joint)
    run_joint(group, nodes);
  else if (!steps_[s].kernel)
    return;
  else if (group.ended)
    run_ended(group, nodes);
  else if (watch().on)
    run_watched(s, nodes);
  else if (!group.headed)
    steps_[s].kernel(steps_[s].launch);
  if (group.headed) watch().on ? run_blocked(group) : run_headed(group);
}

void Runner::run_ended(const Group& group, std::span<const NodeRef> nodes) {
  const auto s = static_cast<std::size_t>(group.first);
  Launch launch = steps_[s].launch;
  launch.next = &steps_[s + 1].launch;
  launch.formula = plan_.trace.steps[s + 1].op->formula;
  if (watch().on) {
    run_watched(s, steps_[s].kernel, launch, nodes);
    look_at(s + 1, nodes);
  } else {
    steps_[s].kernel(launch);
  }
}

void Runner::run_chain(const Group& group) {
  const auto first = static_cast<std::size_t>(group.first), last = static_cast<std::size_t>(group.last);
  std::vector<Launch> launches;
  for (std::size_t s = first; s < last; ++s) {
    launches.push_back(steps_[s].launch);
    launches.back().formula = plan_.trace.steps[s].op->formula;
  }
  plan_.trace.steps[first].op->cuda_chain(
      {launches.data(), group.last - group.first, value_of_view_.data() + steps_[first].first_view});
}

void Runner::run_joint(const Group& group, std::span<const NodeRef> nodes) {
  std::vector<Launch> launches;
  for (std::int32_t s = group.first; s < group.last; ++s)
    if (watch().on)
      run_watched(static_cast<std::size_t>(s), nodes);
    else
      launches.push_back(steps_[static_cast<std::size_t>(s)].launch);
  const Op& op = *plan_.trace.steps[static_cast<std::size_t>(group.first)].op;
  if (!launches.empty()) op.cuda_many(launches.data(), static_cast<std::int64_t>(launches.size()));
}

void Runner::run_watched(std::size_t s, const Launcher& kernel, const Launch& whole,
                         std::span<const NodeRef> nodes) {
  const TraceStep& traced = plan_.trace.steps[s];
  const Launch& launch = steps_[s].launch;
  const Watched watched(*traced.written, "plan", plan_.trace.device);
  if (kernel) kernel(whole);
  if (plan_.trace.device.type == DeviceType::cpu && launch.status->code != Status::ok)
    return;  // run() says so
  try {
    watched.ended({launch.in, static_cast<std::size_t>(launch.n_in)},
                  {launch.out, static_cast<std::size_t>(launch.n_out)});
  } catch (const Error& error) {
    throw Error(error.kind(), error.what() + place_of(traced, nodes));
  }
}

}  // namespace edfcore
