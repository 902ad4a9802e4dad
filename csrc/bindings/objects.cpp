// The Python types of nodes. Programs make and drop nodes by the thousand, so these are C types of Python's
// own making: pybind11 keeps a registry of its instances, which takes longer than the node behind them.
#include <structmember.h>

#include <cstddef>

#include "bindings/bindings.h"
#include "core/error.h"

namespace edfcore {
namespace {

// An instance of Recorded. What was given to its constructor stays with it, since the engine refers to the
// user's own objects weakly.
struct RecordedObject {
  NodeObject base;
  PyObject* inputs;  // a tuple; null before the constructor has run
};

NodeObject* object_of(PyObject* self) { return reinterpret_cast<NodeObject*>(self); }
RecordedObject* recorded(PyObject* self) { return reinterpret_cast<RecordedObject*>(self); }

void free_node(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  if (PyType_IS_GC(type)) PyObject_GC_UnTrack(self);
  if (object_of(self)->weakrefs) PyObject_ClearWeakRefs(self);
  object_of(self)->handle.~Handle();
  type->tp_free(self);
  Py_DECREF(type);
}

int clear_recorded(PyObject* self) {
  Py_CLEAR(recorded(self)->inputs);
  return 0;
}

void free_recorded(PyObject* self) {
  PyObject_GC_UnTrack(self);
  if (object_of(self)->weakrefs) PyObject_ClearWeakRefs(self);  // before anything else of Python's can run
  clear_recorded(self);
  free_node(self);
}

int traverse_recorded(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(recorded(self)->inputs);
  return 0;
}

// A constructor's body: -1 and Python's exception where it throws.
template <class Body>
int constructed(const Body& body) {
  try {
    body();
    return 0;
  } catch (...) {
    raise_in_python();
    return -1;
  }
}

int init_node(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* const names[] = {"value", "device", nullptr};
  PyObject *value = Py_None, *device = Py_None;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$O:Input", const_cast<char**>(names), &value, &device))
    return -1;
  return constructed([&] { construct_assigned(self, Role::input, value, device); });
}

int init_tensor(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* const names[] = {"data", "dtype", "device", "requires_grad", nullptr};
  PyObject *data = nullptr, *dtype = Py_None, *device = Py_None;
  int requires_grad = 0;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$Op:Tensor", const_cast<char**>(names), &data, &dtype,
                                   &device, &requires_grad))
    return -1;
  return constructed([&] { construct_tensor(self, data, dtype, device, requires_grad != 0); });
}

// Where the class says that its op takes just its inputs and they are all there, nothing of Python's runs
// between the call and the node. Anything else is for the constructor in Python.
int init_recorded(PyObject* self, PyObject* args, PyObject* kwargs) {
  static PyObject* const plain_name = PyUnicode_InternFromString("_plain");
  static PyObject* const init_name = PyUnicode_InternFromString("_init");
  const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(self)));
  return constructed([&] {
    if (!kwargs || PyDict_GET_SIZE(kwargs) == 0) {
      const auto plain = py::reinterpret_steal<py::object>(PyObject_GetAttr(type.ptr(), plain_name));
      if (!plain) throw py::error_already_set();
      if (!plain.is_none()) {
        const Op& op = as_op(plain);
        if (PyTuple_GET_SIZE(args) == op.arity) {
          record(self, op, args, Py_None);
          return append_to_graph(self);
        }
      }
    }
    const auto init = py::reinterpret_steal<py::object>(PyObject_GetAttr(type.ptr(), init_name));
    if (!init) throw py::error_already_set();
    const auto all = py::reinterpret_borrow<py::args>(args);
    init(py::handle(self), *all, **(kwargs ? py::reinterpret_borrow<py::dict>(kwargs) : py::dict()));
  });
}

PyMemberDef node_members[] = {{"__weaklistoffset__", T_PYSSIZET,
                               static_cast<Py_ssize_t>(offsetof(NodeObject, weakrefs)), READONLY, nullptr},
                              {}};
PyMemberDef recorded_members[] = {
    {"inputs", T_OBJECT_EX, static_cast<Py_ssize_t>(offsetof(RecordedObject, inputs)), 0,
     "What the node was made of."},
    {}};

}  // namespace

PyTypeObject* node_type = nullptr;
PyTypeObject* recorded_type = nullptr;
PyTypeObject* tensor_type = nullptr;

PyTypeObject* make_type(py::module_& m, const char* name, const char* doc, std::size_t size,
                        unsigned int flags, std::initializer_list<PyType_Slot> given, PyTypeObject* base) {
  std::vector<PyType_Slot> slots(given);
  slots.push_back({Py_tp_doc, const_cast<char*>(doc)});
  slots.push_back({Py_tp_new, reinterpret_cast<void*>(PyType_GenericNew)});
  slots.push_back({0, nullptr});
  PyType_Spec spec{name, static_cast<int>(size), 0,
                   static_cast<unsigned int>(Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE) | flags, slots.data()};
  const py::object bases =
      base ? py::make_tuple(py::handle(reinterpret_cast<PyObject*>(base))) : py::object();
  PyObject* made = PyType_FromSpecWithBases(&spec, bases.ptr());
  if (!made) throw py::error_already_set();
  m.attr(std::strrchr(name, '.') + 1) = py::handle(made);
  return reinterpret_cast<PyTypeObject*>(made);
}

void adopt(py::handle object, NodeRef node) {
  Handle& handle = object_of(object.ptr())->handle;
  if (handle.node) fail(ErrorKind::graph, "this node has been made already.");
  handle.node = std::move(node);
}

void keep_inputs(py::handle object, py::handle inputs) {
  if (!PyObject_TypeCheck(object.ptr(), recorded_type)) return;
  PyObject*& kept = recorded(object.ptr())->inputs;
  Py_INCREF(inputs.ptr());
  Py_XDECREF(std::exchange(kept, inputs.ptr()));
}

py::object make_tensor(NodeRef node) {
  PyObject* made = tensor_type->tp_alloc(tensor_type, 0);
  if (!made) throw py::error_already_set();
  object_of(made)->handle.node = std::move(node);
  return py::reinterpret_steal<py::object>(made);
}

void init_objects(py::module_& m) {
  node_type = make_type(
      m, "edfcore._core.Node", "Node(value=None, *, device=None)\n--\n\nA node of a recorded graph.",
      sizeof(NodeObject), 0,
      {slot(Py_tp_dealloc, free_node), slot(Py_tp_init, init_node), {Py_tp_members, node_members}}, nullptr);
  recorded_type = make_type(m, "edfcore._core.Recorded", "A node that is computed from others, its `inputs`.",
                            sizeof(RecordedObject), Py_TPFLAGS_HAVE_GC,
                            {slot(Py_tp_dealloc, free_recorded),
                             slot(Py_tp_init, init_recorded),
                             slot(Py_tp_traverse, traverse_recorded),
                             slot(Py_tp_clear, clear_recorded),
                             {Py_tp_members, recorded_members}},
                            node_type);
  tensor_type = make_type(m, "edfcore._core.Tensor",
                          R"(A dense array on one device that remembers what it was computed from.

Ops on tensors run at once. `backward()` then gives every tensor with `requires_grad` its `.grad`.)",
                          sizeof(NodeObject), 0,
                          {slot(Py_tp_dealloc, free_node), slot(Py_tp_init, init_tensor)}, node_type);
}

}  // namespace edfcore
