// The Python type of functions that are ops. Small tensors take no longer to compute than a call does, so
// nothing of Python's runs between the call and the op but what describes its inputs.
#include <structmember.h>

#include <cstddef>

#include "bindings/bindings.h"

namespace edfcore {
namespace {

struct FunctionObject {
  PyObject head;
  PyObject *record, *describe;  // null before the constructor has run
};

FunctionObject* object_of(PyObject* self) { return reinterpret_cast<FunctionObject*>(self); }

int init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* const names[] = {"record", "describe", nullptr};
  PyObject *record = nullptr, *describe = nullptr;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Function", const_cast<char**>(names), &record,
                                   &describe))
    return -1;
  FunctionObject& own = *object_of(self);
  Py_XSETREF(own.record, Py_NewRef(record));
  Py_XSETREF(own.describe, Py_NewRef(describe));
  return 0;
}

PyObject* call(PyObject* self, PyObject* args, PyObject* kwargs) {
  try {
    const FunctionObject& own = *object_of(self);
    if (!own.describe) throw py::type_error("Function: its constructor has not run.");
    const auto described = py::reinterpret_steal<py::object>(PyObject_Call(own.describe, args, kwargs));
    if (!described) return nullptr;
    PyObject* const pair = described.ptr();
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyTuple_Check(PyTuple_GET_ITEM(pair, 0)))
      throw py::type_error("what describes an op must return a tuple of inputs, and attrs or None.");
    return apply(own.record, py::reinterpret_borrow<py::tuple>(PyTuple_GET_ITEM(pair, 0)),
                 py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(pair, 1)))
        .release()
        .ptr();
  } catch (...) {
    raise_in_python();
    return nullptr;
  }
}

int clear(PyObject* self) {
  Py_CLEAR(object_of(self)->record);
  Py_CLEAR(object_of(self)->describe);
  return 0;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(object_of(self)->record);
  Py_VISIT(object_of(self)->describe);
  return 0;
}

void free_function(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMemberDef members[] = {
    {"record", T_OBJECT_EX, static_cast<Py_ssize_t>(offsetof(FunctionObject, record)), READONLY,
     "The engine's record of the op."},
    {"describe", T_OBJECT_EX, static_cast<Py_ssize_t>(offsetof(FunctionObject, describe)), READONLY,
     "Gives inputs and attributes of a call, and runs nothing."},
    {}};

}  // namespace

void init_functions(py::module_& m) {
  make_type(m, "edfcore._core.Function",
            "An op as a function: runs it on tensors, or records it when an input is a recorded node.",
            sizeof(FunctionObject), Py_TPFLAGS_HAVE_GC,
            {slot(Py_tp_dealloc, free_function),
             slot(Py_tp_init, init),
             slot(Py_tp_call, call),
             slot(Py_tp_traverse, traverse),
             slot(Py_tp_clear, clear),
             {Py_tp_members, members}},
            nullptr);
}

}  // namespace edfcore
