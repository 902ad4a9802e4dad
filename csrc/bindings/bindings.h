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

// The Python object behind a node. EDF nodes are Python subclasses of Handle; eager tensors are TensorHandle.
struct Handle {
  NodeRef node;

  Handle() = default;
  explicit Handle(NodeRef n) : node(std::move(n)) {}

  // The node. Throws a graph error where a subclass has not called its base's constructor yet.
  Node& get() const;

  // pybind11 allocates, and constructs nothing, when such an object is used: zeros make that a null node.
  static void* operator new(std::size_t size) {
    void* memory = std::malloc(size);
    if (!memory) throw std::bad_alloc();
    return std::memset(memory, 0, size);
  }
  static void operator delete(void* memory) { std::free(memory); }
};
struct TensorHandle : Handle {
  using Handle::Handle;
};

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

// turn.cpp: the turn of the thread that works with the session (graph/session.h), without the GIL. Throws a graph error
// for a signal handler that would interfere with its own thread's.
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
DType to_dtype(py::handle dtype);  // from a name, a NumPy dtype or scalar type; throws a dtype error
py::dtype from_dtype(DType dtype);
// The values of `object` in memory on `device`. Floating values take the dtype `floating` where one is given;
// integers and bools stay what they are. `what` names the object in the dtype error that is thrown for
// anything else. With `share`, a fitting NumPy array is borrowed instead of copied.
Tensor to_tensor(py::handle object, std::optional<DType> floating, Device device, const std::string& what,
                 bool share);
py::array as_array(const Tensor& host, bool writable = true);  // an array over the tensor's own memory
bool same_memory(py::handle object, const Tensor& host);

// sites.cpp
void capture_site(Node& node);  // the innermost Python frame outside this package
void release_sites();           // of the nodes that were freed without the GIL
void init_sites(py::module_& m);

// The C++ object behind an instance of one of this module's classes, without the search that a cast makes.
// The caller has checked the type; null where the object's constructor has not run.
template <class T>
T* payload(py::handle object) {
  auto* instance = reinterpret_cast<py::detail::instance*>(object.ptr());
  if (instance->simple_layout) return static_cast<T*>(instance->simple_value_holder[0]);
  return py::cast<T*>(object);
}

// handles.cpp
const Op& as_op(py::handle object);
extern const char* const unconstructed;  // what is wrong with a node whose constructor has not run
Handle* as_handle(py::handle object);    // null when it is not one
bool is_node_type(PyTypeObject* type);
Device& current_device();
DType graph_dtype();  // edfcore.DT
void init_handles(py::module_& m);

// record.cpp
Attrs as_attrs(py::handle attrs);  // from the Python class of that name, or None
// An input of a recorded node: a node of ours, an array or number, or an object of the user's with a .value.
// A number for an op that takes them; null for anything else.
NodeRef as_number(py::handle object, const Op& op, std::size_t position, Device device);
// True for an object of the user's that stands for a value: it has .value or forward(), and is no array or
// number.
bool is_host(py::handle object);
Edge as_edge(py::handle object, const Op& op, std::size_t position);
void init_record(py::module_& m);

// hosts.cpp: objects outside the engine, behind leaves of Role::host
py::object value_or_none(py::handle object);
NodeRef make_host_leaf(py::handle object);
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

// eager.cpp, errors.cpp, engine.cpp, plans.cpp
Rule as_rule(const std::string& name, const py::object& learning_rate, double decay, double beta1,
             double beta2, double epsilon);
void init_plans(py::module_& m);
void init_edf(py::module_& m);
void init_eager(py::module_& m);
void init_errors();
void init_engine(py::module_& m);

}  // namespace edfcore
