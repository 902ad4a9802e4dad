// Plans of EDF programs: looking at one, and running an epoch of minibatches without coming back to Python.
#include <algorithm>
#include <cstddef>
#include <map>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/execute.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"
#include "graph/watch.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

// The program as its lists say.
Program program_of(const py::object& comp_nodes, const py::object& parameters, const py::object& loss,
                   const char* caller) {
  Program program;
  std::size_t position = 0;
  for (py::handle item : list_of(comp_nodes)) {
    Node* node = own_node(item);
    if (!node)
      fail(ErrorKind::graph, caller, ": CompNodes[", position, "] is a ", Py_TYPE(item.ptr())->tp_name,
           ", which the engine cannot run by itself: use Forward(), Backward() and SGD().");
    program.nodes.emplace_back(node);
    if (item.is(loss)) program.loss = NodeRef(node);
    ++position;
  }
  if (loss.is_none()) return program;
  if (!program.loss) {
    if (!as_handle(loss))
      fail(ErrorKind::graph, caller, ": the loss is a ", Py_TYPE(loss.ptr())->tp_name, ", not a node.");
    fail(ErrorKind::graph, caller,
         ": the loss is not among CompNodes: the graph was cleared or re-bound after it was made.");
  }
  position = 0;
  for (py::handle item : list_of(parameters)) {
    if (!engine_updates(item))
      fail(ErrorKind::graph, caller, ": Parameters[", position, "] is a ", Py_TYPE(item.ptr())->tp_name,
           " with an SGD of its own: use Forward(), Backward() and SGD().");
    program.parameters.emplace_back(&as_handle(item)->get());
    ++position;
  }
  return program;
}

Plan plan_of(const py::object& comp_nodes, const py::object& parameters, const py::object& loss) {
  const Program program = program_of(comp_nodes, parameters, loss, "plan");
  const Turn turn;
  session().finish();
  Traced traced = trace_program(program);
  for (const NodeRef& node : program.nodes)  // without a loss, everything is looked at
    if (!program.loss || node == program.loss) traced.trace.keep(traced.value_of.at(node.get()));
  return compile(std::move(traced.trace));
}

// An input and the examples that it is fed with.
struct Feed {
  NodeRef input;
  Tensor examples;
};

std::vector<Feed> feeds_of(const py::dict& given, std::int64_t& count) {
  std::vector<Feed> feeds;
  for (const auto& [key, value] : given) {
    Handle* handle = as_handle(key);
    if (!handle || handle->get().role != Role::input)
      fail(ErrorKind::graph, "replay: feeds is a dict from an Input to its examples, and ",
           std::string(py::str(py::repr(key))), " is no Input.");
    Node& input = handle->get();
    const std::string what = text("replay: the examples for feeds[", feeds.size(), "]");
    Tensor examples = to_tensor(value, input.attrs.dtype, input.device, what, true);
    if (examples.spec.shape.rank() == 0)
      fail(ErrorKind::shape, what, " have shape (): the first axis must be that of the examples.");
    if (!feeds.empty() && examples.spec.shape[0] != count)
      fail(ErrorKind::shape, what, " have shape ", examples.spec.shape, ", but the others' first axis is ",
           count, ": there must be as many of each.");
    count = examples.spec.shape[0];
    feeds.push_back({NodeRef(&input), std::move(examples)});
  }
  if (feeds.empty()) fail(ErrorKind::graph, "replay: feeds is empty: name the inputs and their examples.");
  return feeds;
}

// The plan for minibatches of one size.
struct Batches {
  Runner runner;
  std::int32_t index, loss;  // slots
  Spec losses;
};

Batches batches(Program program, const std::vector<Feed>& feeds, std::int64_t size) {
  NodeRef index = make_leaf(Role::constant, allocate({DType::i64, Shape{size}}, feeds[0].input->device));
  for (const Feed& feed : feeds)
    program.feeds[feed.input.get()] =
        make_node(ops::gather_rows, {{make_leaf(Role::constant, feed.examples), 0}, {index, 0}}, {});
  Traced traced = trace_program(program);
  const auto value = [&](const NodeRef& node) -> TraceValue& {
    return traced.trace.values[static_cast<std::size_t>(traced.value_of.at(node.get()))];
  };
  const std::int32_t loss = traced.trace.keep(traced.value_of.at(program.loss.get()));
  const std::int32_t rows = value(index).slot;
  const Spec losses = value(program.loss).spec;
  // What is watched runs one by one, and finds its inputs as they were.
  const CompileOptions options{.blocks = !watch().on, .inplace = !watch().on};
  Runner runner(compile(std::move(traced.trace), options));
  runner.bind(traced.leaves);
  return {std::move(runner), rows, loss, losses};
}

// What was written into arrays that stand for device memory goes there once, now: later it would undo
// updates.
void upload_leaves(const Program& program) {
  for (const NodeRef& node : program.nodes)
    for (const Edge& edge : node->inputs)
      if (!edge.node->op && edge.node->value()) edge.node->value().on_device();
  for (const NodeRef& parameter : program.parameters) parameter->value().on_device();
}

// Computed values and gradients are of no minibatch that anybody saw; parameters have new values.
void forget_values(const Program& program) {
  for (const NodeRef& node : program.nodes) {
    node->output.value.set({});
    zero_grad(*node);
    node->has_grad = node->elided = false;
  }
  for (const NodeRef& parameter : program.parameters) {
    ++parameter->value().tensor.buffer->version;
    parameter->value().updated();
    zero_grad(*parameter);
    parameter->has_grad = false;
  }
}

// A loss for each example, or for each minibatch where the loss is one number.
Tensor run_batches(const Program& program, const std::vector<Feed>& feeds, const Tensor& rows,
                   std::int64_t batch_size, double learning_rate) {
  const std::vector<Scalars> rates(program.parameters.size(), {learning_rate, 0.0});
  std::map<std::int64_t, Batches> by_size;
  Tensor losses;
  const Device device = rows.device();
  const std::int64_t count = rows.spec.shape[0];
  std::size_t filled = 0;
  for (std::int64_t begin = 0; begin < count; begin += batch_size) {
    const std::int64_t size = std::min(batch_size, count - begin);
    auto found = by_size.find(size);
    if (found == by_size.end()) found = by_size.emplace(size, batches(program, feeds, size)).first;
    Batches& batch = found->second;
    const bool single = batch.losses.shape.rank() == 0;
    if (!single && !(batch.losses.shape == Shape{size}))
      fail(ErrorKind::shape, "replay: the loss has shape ", batch.losses.shape, " for ", size,
           " examples: it must have one value for each, or one in all.");
    if (!losses)
      losses = allocate({batch.losses.dtype, Shape{single ? (count + batch_size - 1) / batch_size : count}},
                        device);
    batch.runner.bind(batch.index, static_cast<std::int64_t*>(rows.data()) + begin);
    batch.runner.bind(batch.loss, static_cast<std::byte*>(losses.data()) + filled);
    try {
      batch.runner.run(rates);
    } catch (const Error& error) {
      throw Error(error.kind(),
                  text(error.what(), " In replay, at examples ", begin, " to ", begin + size - 1,
                       " of the order: no minibatch from here on was learnt from."));
    }
    filled += batch.losses.bytes();
    poll_signals();
  }
  if (device.type == DeviceType::cpu) return losses;
  check_status(device);
  return copy_to(losses, cpu_device);
}

py::array replay(const py::object& comp_nodes, const py::object& parameters, const py::object& loss,
                 const py::dict& given, const py::object& order, std::int64_t batch_size,
                 const py::object& rate) {
  const double learning_rate = as_rate(rate);
  const Program program = program_of(comp_nodes, parameters, loss, "replay");
  if (!program.loss) fail(ErrorKind::graph, "replay: the loss is None, not a node.");
  if (batch_size < 1) fail(ErrorKind::data, "replay: batch_size is ", batch_size, ": it must be at least 1.");
  std::int64_t examples = 0;
  const std::vector<Feed> feeds = feeds_of(given, examples);
  const Device device = feeds[0].input->device;
  const py::object positions =
      order.is_none() ? py::object(py::module_::import("numpy").attr("arange")(examples)) : order;
  Tensor rows = to_tensor(positions, {}, cpu_device, "replay: order", true);
  if (is_floating(rows.spec.dtype) || rows.spec.shape.rank() != 1)
    fail(ErrorKind::dtype, "replay: order has shape ", rows.spec.shape, " and dtype ",
         dtype_name(rows.spec.dtype), ": it must be one axis of integers.");
  if (rows.spec.dtype != DType::i64)
    rows = to_tensor(py::array(positions.attr("astype")("int64")), {}, cpu_device, "", true);
  if (rows.spec.shape[0] == 0) fail(ErrorKind::graph, "replay: there are no examples.");
  rows = copy_to(rows, device);  // the caller's array may change meanwhile
  Tensor losses;
  {
    const Turn turn;
    session().leave();
    upload_leaves(program);
    try {
      losses = run_batches(program, feeds, rows, batch_size, learning_rate);
    } catch (...) {
      forget_values(program);
      throw;
    }
    forget_values(program);
  }
  return as_array(losses);
}

}  // namespace

void init_plans(py::module_& m) {
  py::class_<Plan>(m, "Plan", "What a training step runs: steps, groups and memory. Made by `edfcore.plan`.")
      .def("describe", &Plan::describe, "A table of the steps, one line each.")
      .def("__str__", &Plan::describe)
      .def_property_readonly("steps", [](const Plan& p) { return p.trace.steps.size(); })
      .def_property_readonly("groups", [](const Plan& p) { return p.groups.size(); })
      .def_readonly("arena_bytes", &Plan::arena_bytes)
      .def_readonly("separate_bytes", &Plan::separate_bytes)
      .def_property_readonly("flops", &Plan::flops)
      .def_property_readonly("bytes_moved", &Plan::bytes_moved);
  m.def(
      "set_watch_nan",
      [](bool on) {
        finish_step();
        set_watch_nan(on);
      },
      py::arg("on"));
  m.def("start_timing", [] {
    finish_step();
    start_timing();
  });
  m.def(
      "stop_timing",
      [] {
        finish_step();
        py::list events;
        for (const TimedOp& timed : stop_timing())
          events.append(py::make_tuple(timed.op, timed.phase, timed.shape, timed.begin_ns, timed.length_ns));
        return events;
      },
      "What ran since start_timing: (op, phase, shape, begin, length), in nanoseconds.");
  m.def("plan", &plan_of, py::arg("comp_nodes"), py::arg("parameters"), py::arg("loss"));
  m.def("replay", &replay, py::arg("comp_nodes"), py::arg("parameters"), py::arg("loss"), py::arg("feeds"),
        py::arg("order"), py::arg("batch_size"), py::arg("learning_rate"));
}

}  // namespace edfcore
