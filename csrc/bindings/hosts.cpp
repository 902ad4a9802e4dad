// Objects outside the engine (a user's NumPy node, a parameter class of their own) behind leaves of
// Role::host: known by a weak reference, read before a consumer runs, handed gradients after its backward
// step.
#include <cstring>
#include <unordered_set>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/grad.h"

namespace edfcore {
namespace {

py::object object_of(const Node& leaf, const Node& consumer) {
#if PY_VERSION_HEX >= 0x030d0000
  PyObject* object = nullptr;
  if (PyWeakref_GetRef(static_cast<PyObject*>(leaf.host), &object) < 0) throw py::error_already_set();
  if (object) return py::reinterpret_steal<py::object>(object);
#else
  PyObject* object = PyWeakref_GetObject(static_cast<PyObject*>(leaf.host));
  if (object && object != Py_None) return py::reinterpret_borrow<py::object>(object);
#endif
  fail(ErrorKind::graph, "[", consumer.op->name,
       "] an object that it takes as input exists no longer: keep a reference to it.", made_at(consumer));
}

const char* type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// What an object holds others in: a list, a tuple or a dict, be it the object or its attributes; or null.
py::object holder_of(PyObject* object) {
  if (PyDict_Check(object) || PyList_Check(object) || PyTuple_Check(object))
    return py::reinterpret_borrow<py::object>(object);
  if (PyType_Check(object) || PyModule_Check(object)) return {};
  PyObject* attributes = PyObject_GenericGetDict(object, nullptr);
  if (!attributes) PyErr_Clear();
  return py::reinterpret_steal<py::object>(attributes);
}

void release_host(void* host) {
  if (!Py_IsInitialized()) return;
  py::gil_scoped_acquire gil;
  Py_DECREF(static_cast<PyObject*>(host));
}

}  // namespace

// An attribute, or None where there is none; what a property raises comes out.
py::object value_or_none(py::handle object) {
  static PyObject* const name = PyUnicode_InternFromString("value");
  PyObject* value = PyObject_GetAttr(object.ptr(), name);
  if (value) return py::reinterpret_steal<py::object>(value);
  if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
  PyErr_Clear();
  return py::none();
}

NodeRef make_host_leaf(py::handle object, Device device) {
  PyObject* weak = PyWeakref_NewRef(object.ptr(), nullptr);
  if (!weak) {
    PyErr_Clear();
    fail(ErrorKind::graph, "a node's input is a ", type_name(object),
         ", which cannot be referenced weakly: add \"__weakref__\" to its __slots__.");
  }
  NodeRef leaf = make_leaf(Role::host, {});
  leaf->host = weak;
  leaf->requires_grad = true;
  leaf->attrs.dtype = graph_dtype();
  leaf->device = device;
  return leaf;
}

std::optional<Device> device_held(py::handle object) {
  constexpr std::size_t most = 10000;  // objects that are looked at
  std::size_t looked = 0;
  std::vector<py::object> holders;
  std::unordered_set<PyObject*> known;
  std::optional<Device> device;
  const auto look = [&](PyObject* found) {
    ++looked;
    if (PyObject_TypeCheck(found, node_type))
      if (const Node* node = reinterpret_cast<NodeObject*>(found)->handle.node.get()) device = node->device;
    py::object holder = device ? py::object() : holder_of(found);
    if (holder && known.insert(holder.ptr()).second) holders.push_back(std::move(holder));
  };
  look(object.ptr());
  for (std::size_t i = 0; i < holders.size() && !device && looked < most; ++i) {
    PyObject* const holder = holders[i].ptr();
    if (PyDict_Check(holder)) {
      PyObject* value = nullptr;
      for (Py_ssize_t k = 0; !device && looked < most && PyDict_Next(holder, &k, nullptr, &value);)
        look(value);
    } else {
      for (Py_ssize_t k = 0; !device && looked < most && k < PySequence_Fast_GET_SIZE(holder); ++k)
        look(PySequence_Fast_GET_ITEM(holder, k));
    }
  }
  return device;
}

void pull_value(Node& leaf, const Node& consumer) {
  const py::object object = object_of(leaf, consumer);
  const py::object value = value_or_none(object);
  if (value.is_none())
    fail(ErrorKind::graph, "[", consumer.op->name, "] its input, a ", type_name(object),
         ", has no value yet.", made_at(consumer));
  const std::string what =
      text("[", consumer.op->name, "] the value of its input, a ", type_name(object), ",");
  try {
    leaf.output.value.set(to_tensor(value, leaf.attrs.dtype, leaf.device, what, true));
  } catch (const Error& error) {
    throw Error(error.kind(), error.what() + made_at(consumer));
  }
  leaf.output.spec = leaf.output.value.tensor.spec;
}

void push_grad(Node& leaf, const Node& consumer, py::handle parameters) {
  if (!leaf.output.grad) return;
  const py::object object = object_of(leaf, consumer);
  const bool has_addgrad = py::hasattr(object, "addgrad");
  if (!has_addgrad && !py::hasattr(object, "grad")) {  // plain data: no gradient wanted
    leaf.output.grad = {};
    return;
  }
  Node& grad = own_grad(leaf);
  py::array delta = as_array(grad.value().on_host());
  leaf.output.grad = {};
  if (!has_addgrad) {
    const py::object grad = object.attr("grad");
    PyObject* sum = PyNumber_InPlaceAdd(grad.ptr(), delta.ptr());
    if (!sum) throw py::error_already_set();
    object.attr("grad") = py::reinterpret_steal<py::object>(sum);
    return;
  }
  // A parameter's addgrad sums over the batch axis; this gradient is summed already, so its batch is one.
  for (py::handle parameter : parameters)
    if (parameter.is(object)) delta = delta[py::make_tuple(py::none(), py::ellipsis())];
  object.attr("addgrad")(delta);
}

void zero_host_grad(py::handle object) {
  const py::object value = value_or_none(object);
  if (value.is_none()) {  // a node that only watches
    py::setattr(object, "grad", py::int_(0));
    return;
  }
  const py::array array = py::array::ensure(value);
  if (!array) throw py::error_already_set();
  const py::dtype dtype = array.dtype().kind() == 'f' || has_dtype(array, DType::bf16)
                              ? array.dtype()
                              : from_dtype(graph_dtype());
  py::array zeros(dtype, std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
  std::memset(zeros.mutable_data(), 0, static_cast<std::size_t>(zeros.nbytes()));
  py::setattr(object, "grad", zeros);
}

void init_hosts() { host_hooks() = {release_host, shown_dtype}; }

}  // namespace edfcore
