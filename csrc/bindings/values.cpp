// Values and gradients of nodes as NumPy arrays, read and assigned.
#include <cstring>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"

namespace edfcore {

std::string what_is(const Node& node) {
  if (node.op) return text("[", node.op->name, "] ");
  if (node.role == Role::parameter) return node.name ? text("[Parameter ", *node.name, "] ") : "[Parameter] ";
  return "[Input] ";
}

namespace {

// What is to be handed out, found after a look while no other thread works with the session. Both run without
// the GIL where they may have to wait.
template <class Look, class Find>
py::array hand_out(const Node& node, const Look& look, const Find& find) {
  const auto held = [&] {
    look();
    check_data(node.device);  // of what the look had done, too
    return Tensor(find());    // from here on somebody else holds it, so nobody overwrites it
  };
  const bool elided = node.elided || node.grad_elided;
  if (session().idle() && !Turn::wanted() && !elided && node.device.type == DeviceType::cpu)
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

}  // namespace

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
    next = to_tensor(py::array(py::array::ensure(array).attr("astype")(from_dtype(widened(floating)))),
                     floating, node.device, "", true);
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

namespace {

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
      tensor =
          to_tensor(wide.attr("astype")(from_dtype(widened(spec.dtype))), spec.dtype, cpu_device, what, true);
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
    // None may arrive at its backward step.
    if (node.op && (node.op->flags & op_no_grad) && !node.output.grad)
      return zeros(node.output.spec, cpu_device);
    return node.deferred.empty() ? own_grad(node).value().on_host() : shown_grad(node);
  });
}

// An update that was asked for takes the gradient as it was.
void before_grad_is_set(Node& node) {
  if (session().idle() && !node.elided && !node.grad_elided) return;
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

// They are read and assigned in every step: no dispatcher stands before them.
template <py::array (*Get)(const Handle&)>
PyObject* get_array(PyObject* self, void*) {
  try {
    return Get(reinterpret_cast<NodeObject*>(self)->handle).release().ptr();
  } catch (...) {
    raise_in_python();
    return nullptr;
  }
}

template <void (*Set)(const Handle&, py::handle)>
int set_array(PyObject* self, PyObject* array, void*) {
  try {
    if (!array) throw py::type_error("a value or a gradient cannot be deleted");
    Set(reinterpret_cast<NodeObject*>(self)->handle, array);
    return 0;
  } catch (...) {
    raise_in_python();
    return -1;
  }
}

PyGetSetDef value_definition = {"value", get_array<get_value>, set_array<set_value>, nullptr, nullptr};
PyGetSetDef grad_definition = {"grad", get_array<get_grad>, set_array<set_grad>, nullptr, nullptr};

void add_array(PyGetSetDef& definition) {
  const py::handle type(reinterpret_cast<PyObject*>(node_type));
  type.attr(definition.name) = py::reinterpret_steal<py::object>(PyDescr_NewGetSet(node_type, &definition));
}

}  // namespace

void init_values() {
  add_array(value_definition);
  add_array(grad_definition);
  add_method(node_type, "addgrad", &addgrad, py::arg("delta"));
}

}  // namespace edfcore
