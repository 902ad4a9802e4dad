// The handle of a node: what EDF's classes inherit, but for values and gradients (values.cpp).
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
    if (!node.output.grad && (node.elided || node.grad_elided)) session().look_at_grad(node);  // may be gone
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
  {
    const Turn turn;
    check_data(handle.get().device);
  }
  Optimised* kept = handle.get().optimised.get();  // another thread may have set it meanwhile
  if (!kept) return {py::none(), py::none(), 0};
  const auto copy = [](const Tensor& tensor) -> py::object {
    if (!tensor) return py::none();
    return as_array(copy_to(tensor, cpu_device));
  };
  return {copy(kept->first), copy(kept->second), steps_of(*kept)};
}

void set_optimised(const Handle& handle, const Kept& given) {
  finish_step();
  Node& node = handle.get();
  auto kept = std::make_unique<Optimised>();
  const auto moment = [&](const py::object& array) -> Tensor {
    if (array.is_none()) return {};
    Tensor made =
        to_tensor(array, widened(node.output.spec.dtype), node.device, what_is(node) + "a moment", false);
    if (!(made.spec.shape == node.output.spec.shape))
      fail(ErrorKind::shape, what_is(node), "a moment of shape ", made.spec.shape,
           " was given to a parameter of shape ", node.output.spec.shape, ".", made_at(node));
    return made;
  };
  kept->first = moment(std::get<0>(given));
  kept->second = moment(std::get<1>(given));
  set_steps(*kept, std::get<2>(given), node.device);
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

Device as_device(py::handle name) {
  if (name.is_none()) return current_device();
  const Device device = parse_device(py::cast<std::string>(py::str(name)));
  backend(device);
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

void construct_assigned(py::handle object, Role role, py::handle value, py::handle device) {
  const bool parameter = role == Role::parameter;
  NodeRef node = make_leaf(role, {});
  node->attrs.dtype = graph_dtype();
  node->device = as_device(device);
  node->requires_grad = parameter;
  node->recorded = true;
  capture_site(*node);
  const Handle handle{node};
  if (parameter || !value.is_none()) set_value(handle, value);
  adopt(object, std::move(node));
}

static void make_parameter(py::handle object, py::handle value, py::handle device) {
  if (!PyObject_TypeCheck(object.ptr(), node_type)) throw py::type_error("make_parameter: node is no Node");
  construct_assigned(object, Role::parameter, value, device);
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
  add_method(node_type, "forward", &forward_one);
  add_method(node_type, "backward", &backward_one);
  property("shape", [](const Handle& h) { return shape_tuple(spec_of(h.get()).shape); }, nullptr);
  property("has_value", [](const Handle& h) { return known_spec(h.get()).has_value(); }, nullptr);
  property(
      "dtype",
      [](const Handle& h) -> py::object {  // NumPy may have none for bfloat16
        const DType dtype = spec_of(h.get()).dtype;
        if (dtype == DType::bf16) return py::str(dtype_name(dtype));
        return from_dtype(dtype);
      },
      nullptr);
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

  m.def("make_parameter", &make_parameter, py::arg("node"), py::arg("value"), py::arg("device") = py::none(),
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
