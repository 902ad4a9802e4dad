// What the files of this room share. It is the only room that sees Python: it converts, forwards, and lets go
// of the GIL while the engine runs. No strong reference to a Python object is kept in C++, except to arrays
// and code objects.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

#include "graph/node.h"
#include "graph/rule.h"

namespace edfcore {

namespace py = pybind11;

// What a Python object has of a node. EDF's classes are Python subclasses of Node and Recorded (objects.cpp).
struct Handle {
  NodeRef node;  // null before a constructor has run

  // The node. Throws a graph error where a subclass has not called its base's constructor yet.
  Node& get() const;
};
struct TensorHandle : Handle {};

struct NodeObject {
  PyObject head;
  Handle handle;
  PyObject* weakrefs;
};
extern PyTypeObject *node_type, *recorded_type, *tensor_type;

// Lets go of the GIL while memory is copied to or from a device that is not the CPU, which may have work to
// finish first.
class DeviceWait {
 public:
  explicit DeviceWait(Device device) {
    if (device.type != DeviceType::cpu) released_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> released_;
};

// turn.cpp: the turn of the thread that works with the session (graph/session.h), without the GIL. Throws a
// graph error for a signal handler that would interfere with its own thread's.
class Turn {
 public:
  Turn();
  ~Turn();
  Turn(const Turn&) = delete;
  static bool wanted();  // by any thread; asked with the GIL

 private:
  struct Wish {  // made known before the GIL is let go of
    Wish();
    ~Wish();
  } wish_;
  py::gil_scoped_release release_;
};
void finish_step();                // what Forward, Backward and SGD have put off
void leave_session(bool goes_on);  // finishes, and if the step goes on, with all values; lets go of the nodes
void look_at_value(Node& node);    // before it is read
void check_data(Device device);    // throws what a GPU has found in the data of steps, which are over then
void poll_signals();               // without the GIL; throws what a handler raises

// A plain C function for Python out of one that takes its arguments as an array: what is called for every
// node does without a dispatcher's search through signatures. METH_FASTCALL.
void raise_in_python() noexcept;  // in a catch block: sets Python's exception from the one that is caught
template <auto Function>
PyObject* fastcall(PyObject*, PyObject* const* args, Py_ssize_t n) {
  try {
    return Function(args, n).release().ptr();
  } catch (...) {
    raise_in_python();
    return nullptr;
  }
}
void add_function(py::module_& m, PyMethodDef& method);

// arrays.cpp
DType to_dtype(py::handle dtype);   // from a name, a NumPy dtype or scalar type; throws a dtype error
py::dtype from_dtype(DType dtype);  // for bfloat16 without the package ml_dtypes: float32
bool has_dtype(const py::array& array, DType dtype);
DType shown_dtype(DType dtype);  // of the arrays that show such values
// The values of `object` in memory on `device`. Floating values take the dtype `floating` where one is given;
// integers and bools stay what they are. `what` names the object in the dtype error that is thrown for
// anything else. With `share`, a fitting NumPy array is borrowed instead of copied.
Tensor to_tensor(py::handle object, std::optional<DType> floating, Device device, const std::string& what,
                 bool share);
// The same of an array that needs no conversion, borrowed; null for anything else.
Tensor to_plain_tensor(py::handle object, std::optional<DType> floating);
// An array over the tensor's own memory; for bfloat16 without ml_dtypes, a float32 copy.
py::array as_array(const Tensor& host, bool writable = true);
bool same_memory(py::handle object, const Tensor& host);

// sites.cpp
void capture_site(Node& node);  // the innermost Python frame outside this package
void release_sites();           // of the nodes that were freed without the GIL
void init_sites(py::module_& m);

// What a class leaves to the engine, which holds until Python changes the class.
struct ClassTraits {
  bool runs = false;      // a subclass of Recorded with its forward and backward
  bool receives = false;  // a subclass of Node with its addgrad
};
ClassTraits traits_of(PyTypeObject* type);

// A function of C++ as a method, and two of them as a property, of one of the types of objects.cpp.
template <class F, class... Extra>
void add_method(PyTypeObject* type, const char* name, F&& function, const Extra&... extra) {
  const py::handle owner(reinterpret_cast<PyObject*>(type));
  owner.attr(name) =
      py::cpp_function(std::forward<F>(function), py::name(name), py::is_method(owner), extra...);
}
template <class Get, class Set>
void add_property(PyTypeObject* type, const char* name, Get&& get, Set&& set) {
  const py::handle owner(reinterpret_cast<PyObject*>(type));
  py::object setter = py::none();
  if constexpr (!std::is_same_v<std::remove_cvref_t<Set>, std::nullptr_t>)
    setter = py::cpp_function(std::forward<Set>(set), py::is_method(owner));
  owner.attr(name) =
      py::module_::import("builtins")
          .attr("property")(py::cpp_function(std::forward<Get>(get), py::is_method(owner)), setter);
}

// objects.cpp
// A type of Python's own making, as a member of the module.
PyTypeObject* make_type(py::module_& m, const char* name, const char* doc, std::size_t size,
                        unsigned int flags, std::initializer_list<PyType_Slot> given, PyTypeObject* base);
template <class F>
PyType_Slot slot(int id, F* function) {
  return {id, reinterpret_cast<void*>(function)};
}
void adopt(py::handle object, NodeRef node);  // an instance of Node; throws where it has one already
void keep_inputs(py::handle object, py::handle inputs);
py::object make_tensor(NodeRef node);
void init_objects(py::module_& m);

// values.cpp
std::string what_is(const Node& node);  // for messages
void set_value(const Handle& handle, py::handle array);
void init_values();

// handles.cpp
const Op& as_op(py::handle object);
Handle* as_handle(py::handle object);  // null when it is not one; throws when its constructor has not run
Device& current_device();
Device as_device(py::handle name);          // None is the current one; throws when it is not there
py::handle face_attribute(PyObject* name);  // of the module edfcore; null where there is none
DType graph_dtype();                        // edfcore.DT
// A value of None: it has none yet.
void construct_assigned(py::handle object, Role role, py::handle value, py::handle device);
void init_handles(py::module_& m);

// record.cpp
void record(py::handle object, const Op& op, py::handle inputs, py::handle attrs);
void append_to_graph(py::handle node);  // edfcore.CompNodes
Attrs as_attrs(py::handle attrs);       // from the Python class of that name, or None
// An input of a recorded node: a node of ours, an array or number, or an object of the user's with a .value.
// A number for an op that takes them; null for anything else.
NodeRef as_number(py::handle object, const Op& op, std::size_t position, Device device);
// True for an object of the user's that stands for a value: it has .value or forward(), and is no array or
// number.
bool is_host(py::handle object);
Edge as_edge(py::handle object, const Op& op, std::size_t position, Device device);
void init_record(py::module_& m);

// hosts.cpp: objects outside the engine, behind leaves of Role::host
py::object value_or_none(py::handle object);
NodeRef make_host_leaf(py::handle object, Device device);
// Of the nearest node of ours that an object holds in its attributes, or that objects hold which it holds.
std::optional<Device> device_held(py::handle object);
void pull_value(Node& leaf, const Node& consumer);  // from object.value, before a consumer runs
void push_grad(Node& leaf, const Node& consumer,
               py::handle parameters);  // to object.addgrad or object.grad, after a consumer's backward step
void zero_host_grad(py::handle object);
void init_hosts();

// edf.cpp
Node* own_node(
    py::handle item);  // behind a list item that the engine may run itself; null where Python has the say
bool engine_updates(py::handle parameter);  // neither the object nor its class has an SGD of its own
double as_rate(const py::object& learning_rate);
py::list list_of(const py::object& items);  // a copy

// eager.cpp, errors.cpp, engine.cpp, functions.cpp, plans.cpp
// Runs an op on tensors, or records it when an input is a recorded node; `attrs` as as_attrs takes them.
py::object apply(py::handle record, const py::tuple& inputs, const py::object& attrs);
Rule as_rule(const std::string& name, const py::object& learning_rate, double decay, double beta1,
             double beta2, double epsilon);
void construct_tensor(py::handle object, py::handle data, py::handle dtype, py::handle device,
                      bool requires_grad);
void init_plans(py::module_& m);
void init_edf(py::module_& m);
void init_eager(py::module_& m);
void init_functions(py::module_& m);
py::object& recorder();  // Python's function that makes a node of a recorded op
void init_errors();
void init_engine(py::module_& m);

}  // namespace edfcore

namespace pybind11::detail {

// Nodes as arguments of functions: the handle within the object, which the caller holds.
template <class T, PyTypeObject*& type>
struct node_caster {
  bool load(handle source, bool) {
    if (!PyObject_TypeCheck(source.ptr(), type)) return false;
    found_ = static_cast<T*>(&reinterpret_cast<edfcore::NodeObject*>(source.ptr())->handle);
    return true;
  }
  operator const T&() { return *found_; }
  template <class>
  using cast_op_type = const T&;

 private:
  const T* found_ = nullptr;
};
template <>
struct type_caster<edfcore::Handle> : node_caster<edfcore::Handle, edfcore::node_type> {
  static constexpr auto name = const_name("edfcore._core.Node");
};
template <>
struct type_caster<edfcore::TensorHandle> : node_caster<edfcore::TensorHandle, edfcore::tensor_type> {
  static constexpr auto name = const_name("edfcore._core.Tensor");
};

}  // namespace pybind11::detail
