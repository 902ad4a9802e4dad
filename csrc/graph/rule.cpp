// Rules of updates.
#include "graph/rule.h"

#include <algorithm>
#include <cmath>

#include "device/memory.h"
#include "graph/run.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

// A small tensor of these numbers.
Tensor tensor_of(const std::array<double, 3>& numbers, DType dtype, Device device) {
  Tensor tensor = allocate({widened(dtype), {3}}, device);
  const std::array<float, 3> narrow{static_cast<float>(numbers[0]), static_cast<float>(numbers[1]),
                                    static_cast<float>(numbers[2])};
  const bool wide = dtype == DType::f64;
  backend(device).upload(tensor.data(), wide ? static_cast<const void*>(numbers.data()) : narrow.data(),
                         tensor.spec.bytes());
  return tensor;
}

Scalars scalars_of(const Rule& rule, std::int64_t step) {
  if (rule.kind != Rule::adam) return {rule.rate, rule.decay};
  const auto t = static_cast<double>(step);
  return {rule.rate / (1.0 - std::pow(rule.beta1, t)), std::sqrt(1.0 - std::pow(rule.beta2, t))};
}

}  // namespace

const Op& op_of(Rule::Kind kind) {
  return kind == Rule::adam ? ops::adam : kind == Rule::momentum ? ops::momentum : ops::sgd;
}

std::span<const Part> parts_of(Rule::Kind kind) {
  static constexpr Part of_momentum[] = {Part::first, Part::steps};
  static constexpr Part of_adam[] = {Part::first, Part::second, Part::numbers, Part::steps};
  if (kind == Rule::adam) return of_adam;
  if (kind == Rule::momentum) return of_momentum;
  return {};
}

Spec spec_of(Part part, const Spec& parameter) {
  if (part == Part::steps) return {DType::i64, {1}};
  const DType dtype = widened(parameter.dtype);
  return part == Part::numbers ? Spec{dtype, {3}} : Spec{dtype, parameter.shape};
}

std::int64_t steps_of(Optimised& kept) {
  const std::uint64_t errors = data_errors();
  if (kept.taken && kept.errors != errors)
    backend(kept.taken.device()).download(&kept.steps, kept.taken.data(), sizeof kept.steps);
  kept.errors = errors;
  return kept.steps;
}

void set_steps(Optimised& kept, std::int64_t steps, Device device) {
  kept.taken = allocate(spec_of(Part::steps, {}), device);
  backend(device).upload(kept.taken.data(), &steps, sizeof steps);
  kept.steps = steps;
  kept.errors = data_errors();
}

void check_grads(std::span<Node* const> parameters, const Op& op) {
  for (Node* p : parameters) {
    if (!p->has_grad)
      fail(ErrorKind::graph, "[", op.name, "] a parameter has no gradient yet: call Backward(loss) first.",
           made_at(*p));
    if (p->output.grad && !(p->output.grad->output.spec == p->output.spec))
      fail(ErrorKind::shape, "[", op.name, "] a parameter of shape ", p->output.spec.shape,
           " has a gradient of shape ", p->output.grad->output.spec.shape, ".", made_at(*p));
  }
}

const Tensor& RuleNumbers::of(const Rule& rule, DType of, Device device) {
  const DType dtype = widened(of);
  const std::array<double, 3> values{rule.beta1, rule.beta2, rule.epsilon};
  if (values != values_) made_.clear();
  values_ = values;
  for (const Tensor& tensor : made_)
    if (tensor.spec.dtype == dtype && tensor.device() == device) return tensor;
  made_.push_back(tensor_of(values, dtype, device));
  return made_.back();
}

static Tensor& part_of(Optimised& kept, Part part) {
  return part == Part::first ? kept.first : part == Part::second ? kept.second : kept.taken;
}

Updating::Updating(std::span<Node* const> parameters, const Rule& rule, RuleNumbers& numbers)
    : rule_(rule), numbers_(numbers), scalars_(parameters.size(), {rule.rate, rule.decay}) {
  if (parts_of(rule.kind).empty()) return;
  own_.reserve(parameters.size());
  const std::uint64_t mark = next_mark();
  for (Node* p : parameters) {
    Own& own = own_.emplace_back(Own{p, own_.size(), p->optimised ? steps_of(*p->optimised) : 0, {}});
    if (std::exchange(p->mark, mark) == mark) {
      const auto stands = [&](const Own& other) { return other.parameter == p; };
      own.same = static_cast<std::size_t>(std::find_if(own_.begin(), own_.end(), stands) - own_.begin());
      continue;
    }
    for (const Part part : parts_of(rule.kind)) {
      if (part == Part::numbers) continue;
      const Spec spec = spec_of(part, p->output.spec);
      if (p->optimised) {
        const Tensor& kept = part_of(*p->optimised, part);
        if (kept && kept.spec == spec) continue;
      }
      own.made[static_cast<std::size_t>(part)] = zeros(spec, p->device);
    }
  }
}

std::span<const Scalars> Updating::next() {
  std::int64_t before = 0;  // whose scalars were computed last
  for (std::size_t i = 0; i < own_.size(); ++i) {
    const std::int64_t step = ++own_[own_[i].same].steps;
    scalars_[i] = i > 0 && step == before ? scalars_[i - 1] : scalars_of(rule_, step);
    before = step;
  }
  return scalars_;
}

void Updating::taken() {
  for (std::size_t i = 0; i < own_.size(); ++i) {
    Own& own = own_[i];
    if (own.same != i) continue;
    std::unique_ptr<Optimised>& kept = own.parameter->optimised;
    if (!kept) kept = std::make_unique<Optimised>();
    kept->steps = own.steps;
    for (const Part part : {Part::first, Part::second, Part::steps})
      if (Tensor& made = own.made[static_cast<std::size_t>(part)])
        part_of(*kept, part) = std::exchange(made, {});
  }
}

const Tensor& Updating::read(std::size_t parameter, Part part) const {
  const Own& own = own_[own_[parameter].same];
  if (part == Part::numbers)
    return numbers_.of(rule_, own.parameter->output.spec.dtype, own.parameter->device);
  const Tensor& made = own.made[static_cast<std::size_t>(part)];
  return made ? made : part_of(*own.parameter->optimised, part);
}

}  // namespace edfcore
