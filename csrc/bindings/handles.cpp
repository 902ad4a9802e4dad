// The handle of a node: what EDF's classes inherit. Values and gradients as NumPy arrays, read and assigned.
#include <cmath>
#include <cstring>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

std::string what_is(const Node& node) {
  if (node.op) return text("[", node.op->name, "] ");
  if (node.role == Role::parameter) return node.name ? text("[Parameter ", *node.name, "] ") : "[Parameter] ";
  return "[Input] ";
}

// What is to be handed out, found after a look while no other thread works with the session. Both run without
// the GIL where they may have to wait.
template <class Look, class Find>
py::array hand_out(const Node& node, const Look& look, const Find& find) {
  const auto held = [&] {
    look();
    if (node.device.type != DeviceType::cpu) {
      try {
        check_status(node.device);  // of what the look had done, too
      } catch (...) {
        session().abandon();
        throw;
      }
    }
    return Tensor(find());  // from here on somebody else holds it, so nobody overwrites it
  };
  if (session().idle() && !Turn::wanted() && !node.elided && node.device.type == DeviceType::cpu)
    return as_array(held());
  std::optional<Tensor> tensor;
  {
    const Turn turn;
    tensor = held();
  }
  return as_array(*tensor);
}

py::array get_value(const Handle& handle) {
  Node& node = handle.get();
  const auto look = [&] {
    session().look_at_value(node);
    if (!node.value())
      fail(ErrorKind::graph, what_is(node),
           "it has no value yet: ", node.op ? "run Forward() first." : "assign its .value first.",
           made_at(node));
  };
  return hand_out(node, look, [&] { return node.value().on_host(); });
}

bool fits_in_place(const Cell& cell, const Tensor& next) {
  return cell.tensor && cell.tensor.buffer->unique() && cell.tensor.spec == next.spec;
}

void set_value(const Handle& handle, py::handle array) {
  Node& node = handle.get();
  if (!session().idle()) {
    const Turn turn;
    node.op ? session().interfere(node) : session().change(node);
  }
  Cell& cell = node.value();
  if (cell && (same_memory(array, cell.tensor) || (cell.mirror && same_memory(array, *cell.mirror)))) {
    node.assigned = node.op != nullptr;
    return;  // `p.value -= d` wrote through the array that was handed out, and assigns it back
  }
  const DType floating = node.op && cell ? node.output.spec.dtype : node.attrs.dtype;
  const bool keeps_shape = node.role == Role::parameter && cell;
  Tensor next = to_plain_tensor(array, floating);
  if (!next)
    next = to_tensor(array, floating, keeps_shape || !cell ? node.device : cell.tensor.device(),
                     what_is(node) + "the assigned value", true);
  if (node.role == Role::parameter && !is_floating(next.spec.dtype)) {
    next = to_tensor(py::array(py::array::ensure(array).attr("astype")(from_dtype(floating))), floating,
                     node.device, "", true);
  }
  if (keeps_shape && !(next.spec.shape == node.output.spec.shape))
    fail(ErrorKind::shape, what_is(node), "a value of shape ", next.spec.shape,
         " was assigned to a parameter of shape ", node.output.spec.shape, ".", made_at(node));
  const DeviceWait wait(node.device);
  if (keeps_shape) {  // in place, as a NumPy EDF's parameter is seen by all who hold its array
    copy_into(cell.on_device(), next);
    cell.updated();
  } else if (fits_in_place(cell, next)) {
    copy_into(cell.tensor, next);
    cell.set(cell.tensor);
  } else {
    cell.set(copy_to(next, node.device));
  }
  node.assigned = node.op != nullptr;
  node.output.spec = cell.tensor.spec;
}

// An array for a gradient of the node: broadcast to its value's shape, in its dtype, in memory of its own.
Tensor grad_like(Node& node, py::handle array, const char* what) {
  const Spec& spec = node.output.spec;
  const Device device = node.value() ? node.value().tensor.device() : node.device;
  Tensor tensor = to_tensor(array, spec.dtype, cpu_device, what_is(node) + what, true);
  if (!(tensor.spec == spec)) {
    const py::module_ numpy = py::module_::import("numpy");
    const py::tuple shape = py::cast(std::vector<std::int64_t>(spec.shape.begin(), spec.shape.end()));
    try {
      const py::object wide = numpy.attr("broadcast_to")(as_array(tensor), shape);
      tensor = to_tensor(wide.attr("astype")(from_dtype(spec.dtype)), spec.dtype, cpu_device, what, true);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_ValueError)) throw;
      fail(ErrorKind::shape, what_is(node), what, " has shape ", tensor.spec.shape,
           ", but the value has shape ", spec.shape, ".", made_at(node));
    }
  }
  return copy_to(tensor, device);
}

void need_value(Node& node, const char* action) {
  if (!node.value() && !node.elided)
    fail(ErrorKind::graph, what_is(node), action, " before it has a value: run Forward() first.",
         made_at(node));
}

py::array zeros_like(const Spec& spec) {
  const DType dtype = is_floating(spec.dtype) ? spec.dtype : graph_dtype();
  py::array zeros(from_dtype(dtype), std::vector<py::ssize_t>(spec.shape.begin(), spec.shape.end()));
  std::memset(zeros.mutable_data(), 0, static_cast<std::size_t>(zeros.nbytes()));
  return zeros;
}

py::array get_grad(const Handle& handle) {
  Node& node = handle.get();
  if (node.role == Role::input && node.value()) return zeros_like(node.output.spec);  // gradients stop here
  const auto look = [&] {
    session().look_at_grad(node);
    if (!node.has_grad)
      fail(ErrorKind::graph, what_is(node), "it has no gradient yet: call Backward(loss) first.",
           made_at(node));
    need_value(node, "its gradient was read");
  };
  return hand_out(node, look, [&]() -> Tensor {
    return node.deferred.empty() ? own_grad(node).value().on_host() : shown_grad(node);
  });
}

// An update that was asked for takes the gradient as it was.
void before_grad_is_set(Node& node) {
  if (session().idle() && !node.elided) return;
  const Turn turn;
  session().look_at_grad(node);
  session().finish();
}

void set_grad(const Handle& handle, py::handle array) {
  Node& node = handle.get();
  if (node.role == Role::input) return;
  before_grad_is_set(node);
  need_value(node, "a gradient was assigned");
  if (node.output.grad) {
    const Cell& cell = node.output.grad->value();
    if (same_memory(array, cell.tensor) || (cell.mirror && same_memory(array, *cell.mirror)))
      return;  // `x.grad += d`
  }
  if (node.shown && same_memory(array, node.shown->handed_out)) return absorb_shown(node);
  NodeRef grad = make_leaf(Role::constant, grad_like(node, array, "the assigned gradient"));
  zero_grad(node);
  node.output.grad = std::move(grad);
}

// What the lectures' addgrad does, by kind of node: nothing for an input, a sum over the batch for a
// parameter.
void addgrad(const Handle& handle, py::object delta) {
  Node& node = handle.get();
  if (node.role == Role::input) return;
  before_grad_is_set(node);
  need_value(node, "addgrad was called");
  bool summed = false;
  if (node.role == Role::parameter) {
    const py::array array = py::array::ensure(delta);
    if (!array) throw py::error_already_set();
    summed = array.ndim() > 0;
    if (summed) delta = array.attr("sum")(0);
  }
  accumulate_grad(node.output, make_leaf(Role::constant,
                                         grad_like(node, delta,
                                                   summed ? "the added gradient, summed over its first axis,"
                                                          : "the added gradient")));
  node.has_grad = true;
}

void forward_one(const Handle& handle) {
  Node& node = handle.get();
  if (!node.op) return;
  for (const Edge& edge : node.inputs)
    if (edge.node->role == Role::host) pull_value(*edge.node, node);
  const Turn turn;
  session().interfere(node);
  run(node);
}

void backward_one(const Handle& handle) {
  Node& node = handle.get();
  if (!node.op) return;
  {
    const Turn turn;
    session().interfere(node);
    backward_step(node);
  }
  for (const Edge& edge : node.inputs)
    if (edge.node->role == Role::host)
      push_grad(*edge.node, node, py::module_::import("edfcore").attr("Parameters"));
}

// Shape and dtype of its value; nothing where there is none to be had.
std::optional<Spec> known_spec(Node& node) {
  if (node.value() || session().idle()) return node.value() ? std::optional(node.output.spec) : std::nullopt;
  const Turn turn;
  const Spec* spec = session().spec(node);
  return spec ? std::optional(*spec) : std::nullopt;
}
Spec spec_of(Node& node) { return known_spec(node).value_or(node.output.spec); }

py::tuple shape_tuple(const Shape& shape) {
  py::tuple result(static_cast<std::size_t>(shape.rank()));
  for (int axis = 0; axis < shape.rank(); ++axis) result[static_cast<std::size_t>(axis)] = shape[axis];
  return result;
}

// What an update keeps: (first moment or None, second moment or None, steps).
using Kept = std::tuple<py::object, py::object, std::int64_t>;
Kept get_optimised(const Handle& handle) {
  finish_step();
  const Optimised* kept = handle.get().optimised.get();
  if (!kept) return {py::none(), py::none(), 0};
  const auto copy = [](const Tensor& tensor) -> py::object {
    if (!tensor) return py::none();
    return as_array(copy_to(tensor, cpu_device));
  };
  return {copy(kept->first), copy(kept->second), kept->steps};
}

void set_optimised(const Handle& handle, const Kept& given) {
  finish_step();
  Node& node = handle.get();
  auto kept = std::make_unique<Optimised>();
  const auto moment = [&](const py::object& array) -> Tensor {
    if (array.is_none()) return {};
    Tensor made = to_tensor(array, node.output.spec.dtype, node.device, what_is(node) + "a moment", false);
    if (!(made.spec == node.output.spec))
      fail(ErrorKind::shape, what_is(node), "a moment of shape ", made.spec.shape,
           " was given to a parameter of shape ", node.output.spec.shape, ".", made_at(node));
    return made;
  };
  kept->first = moment(std::get<0>(given));
  kept->second = moment(std::get<1>(given));
  kept->steps = std::get<2>(given);
  node.optimised = std::move(kept);
}

}  // namespace

Node& Handle::get() const {
  if (!node)
    fail(ErrorKind::graph,
         "a node was used before its base class was constructed: call super().__init__() first.");
  return *node;
}

Handle* as_handle(py::handle object) {
  if (!PyObject_TypeCheck(object.ptr(), node_type)) return nullptr;
  Handle& handle = reinterpret_cast<NodeObject*>(object.ptr())->handle;
  handle.get();
  return &handle;
}

// The C++ object behind it, without the search that a cast makes.
const Op& as_op(py::handle object) {
  static const auto* const type = reinterpret_cast<PyTypeObject*>(py::type::of<Op>().ptr());
  const auto* instance = reinterpret_cast<py::detail::instance*>(object.ptr());
  if (Py_TYPE(object.ptr()) != type || !instance->simple_layout) return py::cast<const Op&>(object);
  return *static_cast<const Op*>(instance->simple_value_holder[0]);
}

Device& current_device() {
  static Device device;
  return device;
}

py::handle face_attribute(PyObject* name) {
  static PyObject* const face_name = PyUnicode_InternFromString("edfcore");
  PyObject* face = PyDict_GetItemWithError(PyImport_GetModuleDict(), face_name);  // borrowed
  return face ? PyDict_GetItemWithError(PyModule_GetDict(face), name) : nullptr;
}

DType graph_dtype() {
  static PyObject* const dt_name = PyUnicode_InternFromString("DT");
  PyObject* const dt = face_attribute(dt_name).ptr();
  if (!dt) return DType::f32;
  static PyObject* last = nullptr;  // one scalar type or dtype object is asked for again and again
  static DType last_dtype = DType::f32;
  if (dt != last) {
    const DType dtype = to_dtype(dt);
    if (!is_floating(dtype))
      fail(ErrorKind::dtype, "edfcore.DT must be a floating dtype, not ", dtype_name(dtype), ".");
    last_dtype = dtype;
    Py_XDECREF(last);
    last = dt;
    Py_INCREF(last);
  }
  return last_dtype;
}

void construct_assigned(py::handle object, Role role, py::handle value) {
  const bool parameter = role == Role::parameter;
  NodeRef node = make_leaf(role, {});
  node->attrs.dtype = graph_dtype();
  node->device = current_device();
  node->requires_grad = parameter;
  node->recorded = true;
  capture_site(*node);
  const Handle handle{node};
  if (parameter || !value.is_none()) set_value(handle, value);
  adopt(object, std::move(node));
}

static void make_parameter(py::handle object, py::handle value) {
  if (!PyObject_TypeCheck(object.ptr(), node_type)) throw py::type_error("make_parameter: node is no Node");
  construct_assigned(object, Role::parameter, value);
}

void init_handles(py::module_& m) {
  py::class_<Op>(m, "Op", "The record of one op.")
      .def_readonly("name", &Op::name)
      .def_readonly("arity", &Op::arity)
      .def_property_readonly("internal", [](const Op& op) { return (op.flags & op_internal) != 0; })
      .def_property_readonly("no_grad", [](const Op& op) { return (op.flags & op_no_grad) != 0; })
      .def_readonly("unread", &Op::unread)
      .def_property_readonly("has_vjp", [](const Op& op) { return op.vjp != nullptr; })
      .def_property_readonly("has_cuda", [](const Op& op) { return op.cuda != nullptr; })
      .def("__repr__", [](const Op& op) { return text("<op ", op.name, ">"); });

  const auto property = [](const char* name, const auto& get, const auto& set) {
    add_property(node_type, name, get, set);
  };
  property("value", &get_value, &set_value);
  property("grad", &get_grad, &set_grad);
  add_method(node_type, "addgrad", &addgrad, py::arg("delta"));
  add_method(node_type, "forward", &forward_one);
  add_method(node_type, "backward", &backward_one);
  property("shape", [](const Handle& h) { return shape_tuple(spec_of(h.get()).shape); }, nullptr);
  property("has_value", [](const Handle& h) { return known_spec(h.get()).has_value(); }, nullptr);
  property("dtype", [](const Handle& h) { return from_dtype(spec_of(h.get()).dtype); }, nullptr);
  property("optimised", &get_optimised, &set_optimised);
  property(
      "overridden", [](const Handle& h) { return h.get().overridden; },
      [](const Handle& h, bool on) { h.get().overridden = on; });
  property("device", [](const Handle& h) { return device_name(h.get().device); }, nullptr);
  property(
      "name", [](const Handle& h) { return h.get().name ? *h.get().name : std::string(); },
      [](const Handle& h, std::string name) {
        h.get().name = name.empty() ? nullptr : std::make_unique<std::string>(std::move(name));
      });
  property("serial", [](const Handle& h) { return h.get().serial; }, nullptr);
  property("op_name", [](const Handle& h) { return h.get().op ? h.get().op->name : ""; }, nullptr);
  property(
      "made_at",
      [](const Handle& h) { return h.get().site.code ? site_hooks().describe(h.get().site) : std::string(); },
      nullptr);

  m.def("make_parameter", &make_parameter, py::arg("node"), py::arg("value"),
        "Makes `node`, an instance of a subclass whose constructor runs, a parameter.");
  m.def(
      "find_op",
      [](const std::string& name) {
        const Op* op = ops::find(name);
        if (!op) fail(ErrorKind::graph, "there is no op '", name, "'.");
        return op;
      },
      py::arg("name"), py::return_value_policy::reference);
  m.def("all_ops", [] {
    py::list list;
    for (const Op* op : ops::all()) list.append(py::cast(op, py::return_value_policy::reference));
    return list;
  });
  m.def(
      "live_nodes",
      [] {
        leave_session(true);
        return live_nodes();
      },
      "Nodes alive in the engine, whoever holds them.");
}

}  // namespace edfcore
