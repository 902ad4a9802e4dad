// Making the node of a recorded op. Programs that rebuild their graph do this ten thousand times a minibatch,
// so the function that does it is a plain C function of Python's, without a dispatcher's search through
// signatures.
#include <cmath>
#include <string_view>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/autocast.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

py::object record_function(PyObject* const* args, Py_ssize_t n) {
  if (n < 3 || n > 4 || !PyObject_TypeCheck(args[0], node_type) || !PyTuple_Check(args[2]))
    throw py::type_error("record(node, op, inputs, attrs=None): a Node, an Op, a tuple, and Attrs or None");
  record(args[0], as_op(args[1]), args[2], n == 4 ? args[3] : Py_None);
  return py::none();
}

PyMethodDef record_method = {
    "record", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fastcall<record_function>)),
    METH_FASTCALL,
    "record(node: Node, op: Op, inputs: tuple, attrs: typing.Any = None) -> None\n\n"
    "Makes `node`, an instance of a subclass whose constructor runs, the node of an op."};

// Within its life, arrays go to this device.
class OnDevice {
 public:
  explicit OnDevice(Device device) : before_(std::exchange(current_device(), device)) {}
  ~OnDevice() { current_device() = before_; }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  Device before_;
};

// Where the first of the inputs is that is a node, or else the nodes of one that is written in Python.
Device device_for(py::handle inputs) {
  const py::ssize_t n = PyTuple_GET_SIZE(inputs.ptr());
  for (py::ssize_t i = 0; i < n; ++i)
    if (Handle* handle = as_handle(PyTuple_GET_ITEM(inputs.ptr(), i))) return handle->get().device;
  for (py::ssize_t i = 0; i < n; ++i)
    if (const std::optional<Device> device = device_held(PyTuple_GET_ITEM(inputs.ptr(), i))) return *device;
  return current_device();
}

}  // namespace

// What autocast makes of the inputs of a node that is recorded, whose dtypes are not known yet: nodes that
// convert where it turns out that they must. The order is that of tensors (eager.cpp).
static py::tuple converted(const Op& op, const Attrs& attrs, const py::tuple& given) {
  py::tuple inputs(given.size());
  const py::object record = py::cast(&ops::autocast, py::return_value_policy::reference);
  const py::tuple asked =
      py::make_tuple(py::make_tuple(attrs.ints[0]), false, false, false, dtype_name(attrs.dtype), 0.0, 0.0);
  const auto is_number = [&](const py::object& object, std::size_t i) {
    return bool{as_number(object, op, i, current_device())};
  };
  py::list operands;  // those whose dtypes count
  for (std::size_t i = 0; i < given.size(); ++i)
    if (!is_number(given[i], i) && !op.takes_index(i)) operands.append(given[i]);
  for (std::size_t i = given.size(); i-- > 0;) {
    inputs[i] = given[i];
    const Handle* handle = as_handle(given[i]);
    if (is_number(given[i], i) || !autocasts(op, i, handle ? &handle->get() : nullptr)) continue;
    py::list list;
    list.append(given[i]);
    if (op.autocast == Autocast::widest)
      for (const py::handle other : operands)
        if (!other.is(given[i])) list.append(other);
    if (op.autocast == Autocast::widest && list.size() == 1) continue;
    inputs[i] = recorder()(record, py::tuple(list), asked);
  }
  return inputs;
}

void record(py::handle object, const Op& op, py::handle given_inputs, py::handle given) {
  const Attrs attrs = as_attrs(given);
  py::object inputs = py::reinterpret_borrow<py::object>(given_inputs);
  const Device device = device_for(inputs);
  const auto n = static_cast<std::size_t>(PyTuple_GET_SIZE(inputs.ptr()));
  if (const std::optional<Attrs> asked = autocast_of(op)) {
    for (std::size_t i = 0; i < n; ++i) {  // what is no input at all is told before nodes are made for it
      const py::handle input = PyTuple_GET_ITEM(inputs.ptr(), static_cast<py::ssize_t>(i));
      if (!as_handle(input) && !is_host(input)) as_edge(input, op, i, device);
    }
    const OnDevice here(device);  // of conversions of arrays
    inputs = converted(op, *asked, py::reinterpret_borrow<py::tuple>(given_inputs));
  }
  Edges edges;
  edges.reserve(n);
  for (std::size_t i = 0; i < n; ++i)
    edges.push_back(as_edge(PyTuple_GET_ITEM(inputs.ptr(), static_cast<py::ssize_t>(i)), op, i, device));
  NodeRef node = make_node(op, std::move(edges), attrs);
  node->recorded = true;
  node->requires_grad = true;
  node->device = device;
  capture_site(*node);
  adopt(object, std::move(node));
  keep_inputs(object, given_inputs);
}

void append_to_graph(py::handle node) {
  static PyObject* const name = PyUnicode_InternFromString("CompNodes");
  const py::handle list = face_attribute(name);
  if (!list) fail(ErrorKind::graph, "edfcore.CompNodes is gone: bind it to a list.");
  if (!PyList_CheckExact(list.ptr()))
    list.attr("append")(node);
  else if (PyList_Append(list.ptr(), node.ptr()) != 0)
    throw py::error_already_set();
}

Attrs as_attrs(py::handle given) {
  Attrs attrs;
  attrs.dtype = graph_dtype();
  if (given.is_none()) return attrs;
  if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != 7)
    throw py::type_error("attrs must be an Attrs or None");
  const auto field = [&](py::ssize_t i) { return py::handle(PyTuple_GET_ITEM(given.ptr(), i)); };
  attrs.n_ints = all_axes;
  if (!field(0).is_none()) {
    const auto ints = py::reinterpret_borrow<py::sequence>(field(0));
    const std::size_t n = ints.size();
    if (n > static_cast<std::size_t>(max_attr_ints))
      fail(ErrorKind::shape, "a tensor has at most ", max_rank, " axes, but ", n, " were named.");
    attrs.n_ints = static_cast<std::int32_t>(n);
    for (std::size_t i = 0; i < n; ++i) attrs.ints[i] = py::cast<std::int64_t>(ints[i]);
  }
  attrs.keepdims = py::cast<bool>(field(1));
  attrs.trans_a = py::cast<bool>(field(2));
  attrs.trans_b = py::cast<bool>(field(3));
  if (!field(4).is_none()) attrs.dtype = to_dtype(field(4));
  attrs.scalar = py::cast<double>(field(5));
  attrs.scalar2 = py::cast<double>(field(6));
  return attrs;
}

NodeRef as_number(py::handle object, const Op& op, std::size_t position, Device device) {
  if (!(op.flags & op_takes_numbers) || static_cast<std::int32_t>(position) < op.numbers_from ||
      as_handle(object))
    return {};
  const bool scalar = PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) || PyBool_Check(object.ptr());
  if (!scalar) {  // an array with no axes, or a NumPy scalar
    if (!py::hasattr(object, "__array__") || !py::hasattr(object, "ndim") ||
        py::cast<int>(object.attr("ndim")) != 0)
      return {};
    if (std::string_view("fiub").find(py::cast<char>(object.attr("dtype").attr("kind"))) ==
        std::string_view::npos)
      return {};
  }
  const auto number = py::reinterpret_borrow<py::object>(object);
  const double floating = py::cast<double>(py::float_(number));
  if (floating != std::trunc(floating) || std::isinf(floating)) return make_number(floating, device);
  int overflow = 0;
  const long long whole = PyLong_AsLongLongAndOverflow(py::int_(number).ptr(), &overflow);
  return overflow ? make_number(floating, device) : make_number(std::int64_t{whole}, device);
}

bool is_host(py::handle object) {
  return !py::hasattr(object, "__array__") &&
         (py::hasattr(object, "value") || py::hasattr(object, "forward"));
}

Edge as_edge(py::handle object, const Op& op, std::size_t position, Device device) {
  if (Handle* handle = as_handle(object)) {
    // A subclass with an addgrad of its own (to clip, to freeze) is to receive its gradient through it.
    if (!traits_of(Py_TYPE(object.ptr())).receives) return {make_host_leaf(object, device), 0};
    return {NodeRef(&handle->get()), 0};
  }
  if (NodeRef number = as_number(object, op, position, device)) return {std::move(number), 0};
  const std::string what = text("[", op.name, "] input ", position);
  const bool numbers =
      PyNumber_Check(object.ptr()) || PySequence_Check(object.ptr()) || py::hasattr(object, "__array__");
  if (!numbers && !object.is_none() && !PyCallable_Check(object.ptr()) && !PyAnySet_Check(object.ptr()))
    return {make_host_leaf(object, device), 0};  // its .value may be set later
  if (is_host(object)) return {make_host_leaf(object, device), 0};
  if (object.is_none() || py::isinstance<py::str>(object) || py::isinstance<py::bytes>(object) ||
      py::isinstance<py::dict>(object) || !numbers)
    fail(ErrorKind::graph, what, " is a ", Py_TYPE(object.ptr())->tp_name,
         ": it must be a node, an array, a number, or an object with a .value.");
  Tensor constant = to_tensor(object, graph_dtype(), device, what, false);
  return {make_leaf(Role::constant, std::move(constant)), 0};
}

void add_function(py::module_& m, PyMethodDef& method) {
  const py::object name = m.attr("__name__");
  m.attr(method.ml_name) = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&method, nullptr, name.ptr()));
}

void init_record(py::module_& m) { add_function(m, record_method); }

}  // namespace edfcore
