// Plans of EDF programs: looking at one, and running an epoch of minibatches without coming back to Python.

#include "bindings/bindings.h"
#include "bindings/walk.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/plan.h"
#include "graph/replay.h"
#include "graph/session.h"
#include "graph/watch.h"

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

py::object plan_of(const py::object& comp_nodes, const py::object& parameters, const py::object& loss) {
  const py::list items = list_of(comp_nodes);
  if (!Items(items).all_ours) return py::cast(describe_mixed(items));
  const Program program = program_of(comp_nodes, parameters, loss, "plan");
  std::optional<Plan> plan;
  {
    const Turn turn;
    session().finish();
    Traced traced = trace_program(program, true);
    for (std::size_t i = 0; i < program.nodes.size(); ++i)  // without a loss, everything is looked at
      if (!program.loss || program.nodes[i] == program.loss) traced.trace.keep(traced.values[i]);
    plan = compile(std::move(traced.trace));
  }
  return py::cast(std::move(*plan));
}

// Where examples would be copied whole, to a device or into another dtype, and `order` names few of them:
// takes those alone, which are then all that there are. What is wrong is found by whoever takes them whole.
bool take_few(py::dict& given, const py::object& order) {
  if (!py::isinstance<py::array>(order)) return false;
  const auto rows = py::reinterpret_borrow<py::array>(order);
  const char kind = rows.dtype().kind();
  if (rows.ndim() != 1 || rows.size() == 0 || (kind != 'i' && kind != 'u') ||
      (kind == 'u' && rows.itemsize() == 8))
    return false;
  py::ssize_t count = -1;
  bool copies = false;
  for (const auto& [key, value] : given) {
    const Handle* handle = as_handle(key);
    if (!handle || !py::isinstance<py::array>(value)) return false;
    const auto array = py::reinterpret_borrow<py::array>(value);
    const Node& input = handle->get();
    if (array.ndim() == 0 || (count >= 0 && array.shape(0) != count)) return false;
    count = array.shape(0);
    copies |= input.device.type != DeviceType::cpu || !(array.flags() & py::array::c_style) ||
              ((array.dtype().kind() == 'f' || array.dtype().kind() == 'V') &&
               !has_dtype(array, input.attrs.dtype));
  }
  if (!copies || rows.size() > count / 2 || rows.attr("min")().cast<py::ssize_t>() < 0 ||
      rows.attr("max")().cast<py::ssize_t>() >= count)
    return false;
  py::dict taken;
  for (const auto& [key, value] : given) taken[key] = value.attr("take")(rows, 0);
  given = std::move(taken);
  return true;
}

// A tensor that an input could hold as it is, and that is where the input is; null for anything else.
Tensor resident(py::handle value, const Node& input) {
  if (!PyObject_TypeCheck(value.ptr(), tensor_type)) return {};
  const Tensor& tensor = as_handle(value)->get().output.value.tensor;
  const bool fits = !is_floating(tensor.spec.dtype) || tensor.spec.dtype == input.attrs.dtype;
  return fits && tensor.device() == input.device ? tensor : Tensor{};
}

std::vector<Feed> feeds_of(const py::dict& given, std::int64_t& count) {
  std::vector<Feed> feeds;
  for (const auto& [key, value] : given) {
    Handle* handle = as_handle(key);
    if (!handle || handle->get().role != Role::input)
      fail(ErrorKind::graph, "replay: feeds is a dict from an Input to its examples, and ",
           std::string(py::str(py::repr(key))), " is no Input.");
    Node& input = handle->get();
    const std::string what = text("replay: the examples for feeds[", feeds.size(), "]");
    Tensor examples = resident(value, input);
    if (!examples) examples = to_tensor(value, input.attrs.dtype, input.device, what, true);
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

Tensor rows_of(const py::object& order, std::int64_t examples) {
  const py::object positions =
      order.is_none() ? py::object(py::module_::import("numpy").attr("arange")(examples)) : order;
  Tensor rows = to_tensor(positions, {}, cpu_device, "replay: order", true);
  const bool mask = py::array::ensure(positions).dtype().kind() == 'b';
  if (is_floating(rows.spec.dtype) || mask || rows.spec.shape.rank() != 1)
    fail(ErrorKind::dtype, "replay: order has shape ", rows.spec.shape, " and dtype ",
         mask ? "bool" : dtype_name(rows.spec.dtype), ": it must be one axis of integers.");
  if (rows.spec.dtype != DType::i64)
    rows = to_tensor(py::array(positions.attr("astype")("int64")), {}, cpu_device, "", true);
  if (rows.spec.shape[0] == 0) fail(ErrorKind::graph, "replay: there are no examples.");
  return copy_to(rows, cpu_device);  // the caller's array may change meanwhile
}

py::array replay(const py::object& comp_nodes, const py::object& parameters, const py::object& loss,
                 py::dict given, py::object order, std::int64_t batch_size, const py::object& rate,
                 const std::string& rule, double decay, double beta1, double beta2, double epsilon) {
  Program program = program_of(comp_nodes, parameters, loss, "replay");
  if (!program.loss) fail(ErrorKind::graph, "replay: the loss is None, not a node.");
  if (batch_size < 1) fail(ErrorKind::data, "replay: batch_size is ", batch_size, ": it must be at least 1.");
  std::int64_t examples = 0;
  if (take_few(given, order)) order = py::none();
  std::vector<Feed> feeds = feeds_of(given, examples);
  Tensor rows = rows_of(order, examples);
  const Device device = feeds[0].input->device;
  const Replay asked{std::move(program.nodes),
                     std::move(program.parameters),
                     std::move(program.loss),
                     std::move(feeds),
                     std::move(rows),
                     batch_size,
                     as_rule(rule, rate, decay, beta1, beta2, epsilon),
                     poll_signals,
                     device};
  Tensor losses;
  {
    const Turn turn;
    session().leave();
    losses = session().replays.run(asked);
  }
  return as_array(losses);
}

}  // namespace

Rule as_rule(const std::string& name, const py::object& learning_rate, double decay, double beta1,
             double beta2, double epsilon) {
  const Rule::Kind kind = name == "Adam" ? Rule::adam : name == "Momentum" ? Rule::momentum : Rule::sgd;
  return {kind, as_rate(learning_rate), decay, beta1, beta2, epsilon};
}

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
  py::class_<MixedPlan>(m, "MixedPlan", "How a graph with nodes in NumPy runs. Made by `edfcore.plan`.")
      .def(
          "describe", [](const MixedPlan& p) { return p.text; },
          "A table of segments and host_calls, with the copies that they have cost in the last step.")
      .def("__str__", [](const MixedPlan& p) { return p.text; })
      .def_readonly("segments", &MixedPlan::segments)
      .def_readonly("host_calls", &MixedPlan::host_calls)
      .def_property_readonly("bytes_to_host", [](const MixedPlan& p) { return p.copied.to_host; })
      .def_property_readonly("bytes_to_device", [](const MixedPlan& p) { return p.copied.to_device; });
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
        py::arg("order"), py::arg("batch_size"), py::arg("learning_rate"), py::arg("rule") = "SGD",
        py::arg("decay") = 0.0, py::arg("beta1") = 0.0, py::arg("beta2") = 0.0, py::arg("epsilon") = 0.0);
}

}  // namespace edfcore
