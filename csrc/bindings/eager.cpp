// The eager tensor: a node that ran when it was made.
#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "graph/autocast.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

thread_local bool grad_enabled = true;

constexpr std::int64_t quick_elements = 1 << 16;

void need_floating(const Node& node) {
  if (!is_floating(node.output.spec.dtype))
    fail(ErrorKind::dtype, "Tensor: only floating-point tensors can require a gradient, and this one is ",
         dtype_name(node.output.spec.dtype), ".");
}

NodeRef made_of(py::handle data, py::handle dtype, py::handle device, bool requires_grad) {
  const Device where = as_device(device);
  py::object source = py::reinterpret_borrow<py::object>(data);
  std::optional<DType> floating;
  if (!dtype.is_none()) {
    const DType wanted = to_dtype(dtype);
    const py::module_ numpy = py::module_::import("numpy");
    if (!is_half(wanted))
      source = numpy.attr("asarray")(source, from_dtype(wanted));
    else if (const py::array given = numpy.attr("asarray")(source); !has_dtype(given, wanted))
      source = given.attr("astype")("float64");  // to be rounded once
    if (is_floating(wanted)) floating = wanted;
  } else if (!py::isinstance<py::array>(data)) {
    floating = DType::f32;  // Python numbers have no dtype; arrays keep theirs
  }
  NodeRef node = make_leaf(Role::input, to_tensor(source, floating, where, "Tensor: the data", false));
  if (requires_grad) need_floating(*node);
  node->requires_grad = requires_grad;
  if (is_floating(node->output.spec.dtype)) node->attrs.dtype = node->output.spec.dtype;
  return node;
}

// Floating values beside tensors take the dtype of the first of them, integers stay what they are. What they
// are called, what() says if it has to be said.
template <class What>
NodeRef tensor_node(py::handle object, const Node* like, const What& what, bool wide = false) {
  if (Handle* handle = as_handle(object)) {
    look_at_value(handle->get());
    if (!handle->get().value()) fail(ErrorKind::graph, what(), " is a node that has no value yet.");
    return NodeRef(&handle->get());
  }
  std::optional<DType> dtype;
  if (like && is_floating(like->output.spec.dtype)) dtype = like->output.spec.dtype;
  if (dtype && wide) dtype = widened(*dtype);
  Tensor tensor = to_tensor(object, dtype, like ? like->device : current_device(), what(), false);
  return make_leaf(Role::constant, std::move(tensor));
}

Edge tensor_edge(py::handle object, const Node* like, const Op& op, std::size_t position) {
  if (like)
    if (NodeRef number = as_number(object, op, position, like->device)) return {std::move(number), 0};
  const bool wide = autocast_dtype() && op.autocast == Autocast::widest;  // as in a graph
  return {tensor_node(object, like, [&] { return text("[", op.name, "] input ", position); }, wide), 0};
}

// Whether the op is so small that the GIL may as well be kept. No result has more elements than the product
// of its inputs' counts, but for those that are asked for in numbers, and no sum of products more terms.
bool is_quick(const Node& node) {
  std::int64_t most = 1;
  for (const Edge& edge : node.inputs) {
    Node& input = *edge.node;
    if (input.device.type != DeviceType::cpu) return false;
    if (input.role == Role::number) continue;
    const std::int64_t size = input.out(edge.index).spec.shape.size();
    if (size > quick_elements) return false;
    most *= size;
    if (most > quick_elements) return false;
  }
  return node.attrs.n_ints <= 0;
}

// Runs a node; with its history only where that is wanted.
void run_tensor(Node& node) {
  capture_site(node);
  {
    std::optional<py::gil_scoped_release> release;
    if (!is_quick(node)) release.emplace();
    run(node);
  }
  node.requires_grad &= grad_enabled;
  if (!node.requires_grad) forget_history(node);
}

// What autocast makes of the inputs. The last one is converted first, so that gradients arrive in the order
// in which they would without.
void convert_inputs(const Op& op, Edges& edges) {
  const std::optional<Attrs> attrs = autocast_of(op);
  if (!attrs) return;
  Edges converted = edges;
  for (std::size_t i = edges.size(); i-- > 0;) {
    if (!autocasts(op, i, edges[i].node.get())) continue;
    Edges inputs;
    Small<Spec> in;
    for (std::size_t j = 0; j < edges.size(); ++j) {  // the one that is converted comes first
      const Edge& edge = edges[j == 0 ? i : j <= i ? j - 1 : j];
      if (edge.node->role == Role::number || (j > 0 && op.autocast != Autocast::widest)) continue;
      inputs.push_back(edge);
      in.push_back(edge.node->out(edge.index).spec);
    }
    Attrs resolved = *attrs;
    Spec out;
    Inference inference{ops::autocast, in, resolved, {&out, 1}};
    ops::autocast.infer(inference);
    if (out == in[0]) continue;
    NodeRef node = make_node(ops::autocast, std::move(inputs), *attrs);
    run_tensor(*node);
    converted[i] = {std::move(node), 0};
  }
  edges = std::move(converted);
}

py::object apply_function(PyObject* const* args, Py_ssize_t n) {
  if (n < 2 || n > 3 || !PyTuple_Check(args[1])) throw py::type_error("apply(op, inputs, attrs=None)");
  return apply(args[0], py::reinterpret_borrow<py::tuple>(args[1]),
               py::reinterpret_borrow<py::object>(n == 3 ? args[2] : Py_None));
}

PyMethodDef apply_method = {
    "apply", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fastcall<apply_function>)),
    METH_FASTCALL,
    "apply(op: Op, inputs: tuple, attrs: typing.Any = None) -> typing.Any\n\n"
    "Runs an op on tensors, or records it when an input is a recorded node."};

void tensor_backward(const TensorHandle& loss, const py::object& gradient, bool create_graph) {
  NodeRef seed;
  if (!gradient.is_none()) {
    seed = tensor_node(gradient, &loss.get(), [] { return std::string("backward: the given gradient"); });
    const Spec &given = seed->output.spec, &value = loss.get().output.spec;
    if (given.dtype != value.dtype)
      fail(ErrorKind::dtype, "backward: the given gradient is ", dtype_name(given.dtype),
           ", but the value is ", dtype_name(value.dtype), ".");
    if (!(given.shape == value.shape))
      fail(ErrorKind::shape, "backward: the given gradient has shape ", given.shape,
           ", but the value has shape ", value.shape, ".");
  }
  py::gil_scoped_release release;
  backward(loss.get(), std::move(seed), create_graph);
}

py::object get_grad(const TensorHandle& tensor) {
  if (!tensor.get().output.grad) return py::none();
  return make_tensor(tensor.get().output.grad);
}

void set_grad(const TensorHandle& tensor, const py::object& grad) {
  if (grad.is_none()) {
    tensor.get().output.grad = {};
    return;
  }
  Handle* handle = as_handle(grad);
  if (!handle)
    fail(ErrorKind::dtype, "Tensor.grad must be a Tensor or None, not a ", Py_TYPE(grad.ptr())->tp_name, ".");
  look_at_value(handle->get());
  if (!handle->get().value()) fail(ErrorKind::graph, "Tensor.grad: the given node has no value yet.");
  if (!(handle->get().output.spec == tensor.get().output.spec))
    fail(ErrorKind::shape, "Tensor.grad of shape ", handle->get().output.spec.shape,
         " was assigned to a tensor of shape ", tensor.get().output.spec.shape, ".");
  tensor.get().output.grad =
      make_leaf(Role::constant, copy_to(handle->get().value().on_device(), handle->get().device));
}

py::array to_numpy(const TensorHandle& tensor) {
  Cell& cell = tensor.get().value();
  if (cell.tensor.device().type == DeviceType::cpu) return as_array(cell.tensor, false);
  Tensor host;
  {
    const DeviceWait wait(cell.tensor.device());
    check_status(cell.tensor.device());
    host = copy_to(cell.tensor, cpu_device);
  }
  return as_array(host, false);
}

py::object get_autocast() {
  const std::optional<DType> dtype = autocast_dtype();
  return dtype ? py::object(py::str(dtype_name(*dtype))) : py::none();
}

py::object set_autocast(const py::object& dtype) {
  py::object before = get_autocast();
  std::optional<DType> wanted;
  if (!dtype.is_none()) wanted = to_dtype(dtype);
  if (wanted && !is_half(*wanted))
    fail(ErrorKind::dtype, "autocast: dtype is ", dtype_name(*wanted), ": it must be bfloat16 or float16.");
  autocast_dtype() = wanted;
  return before;
}

py::object to_device(const py::object& object, const py::object& name) {
  if (!PyObject_TypeCheck(object.ptr(), tensor_type)) throw py::type_error("to_device(tensor, device)");
  const Node& node = as_handle(object)->get();
  const Tensor& from = node.output.value.tensor;
  const Device device = as_device(name);
  if (from.device() == device) return object;
  if (node.requires_grad && grad_enabled)
    fail(ErrorKind::graph,
         "Tensor.to: gradients stay on their device, and this tensor requires one: use "
         "detach().to(\"",
         device_name(device), "\").");
  Tensor copy;
  {
    const py::gil_scoped_release release;
    if (from.device().type != DeviceType::cpu) {
      check_status(from.device());
      backend(from.device()).synchronize();
    }
    copy = copy_to(from, device);
  }
  NodeRef made = make_leaf(Role::input, std::move(copy));
  made->attrs.dtype = node.attrs.dtype;
  return make_tensor(std::move(made));
}

}  // namespace

py::object apply(py::handle record, const py::tuple& inputs, const py::object& given) {
  const Op& op = as_op(record);
  const Attrs attrs = as_attrs(given);
  const Node* like = nullptr;
  std::int32_t like_at = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const py::handle input = inputs[i];
    Handle* handle = as_handle(input);
    const bool tensor = handle && !handle->get().recorded;
    if (!tensor && (handle || is_host(input))) return recorder()(record, inputs, given);
    if (tensor && (!like || like_at < op.numbers_from)) {
      like = &handle->get();
      like_at = static_cast<std::int32_t>(i);
    }
  }
  Edges edges;
  edges.reserve(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) edges.push_back(tensor_edge(inputs[i], like, op, i));
  convert_inputs(op, edges);
  NodeRef node = make_node(op, std::move(edges), attrs);
  run_tensor(*node);
  return make_tensor(std::move(node));
}

py::object& recorder() {
  static auto* const function = new py::object;  // outlives the interpreter's teardown
  return *function;
}

void construct_tensor(py::handle object, py::handle data, py::handle dtype, py::handle device,
                      bool requires_grad) {
  adopt(object, made_of(data, dtype, device, requires_grad));
}

void init_eager(py::module_& m) {
  add_method(tensor_type, "backward", &tensor_backward, py::arg("gradient") = py::none(), py::kw_only(),
             py::arg("create_graph") = false);
  add_method(
      tensor_type, "numpy", &to_numpy,
      "The values as a read-only array; on the CPU without a copy. Those of bfloat16 have the dtype of the "
      "package ml_dtypes where it is installed; otherwise the array is a float32 copy of the same values.");
  add_property(tensor_type, "grad", &get_grad, &set_grad);
  add_property(
      tensor_type, "requires_grad", [](const TensorHandle& t) { return t.get().requires_grad; },
      [](const TensorHandle& t, bool on) {
        if (t.get().op) fail(ErrorKind::graph, "requires_grad can be set on leaves only.");
        if (on) need_floating(t.get());
        t.get().requires_grad = on;
      });
  add_method(tensor_type, "detach", [](const TensorHandle& t) {
    return make_tensor(make_leaf(Role::constant, t.get().value().tensor));
  });
  add_function(m, apply_method);
  m.def("to_device", &to_device, py::arg("tensor"), py::arg("device"));
  m.def("set_recorder", [](py::object function) { recorder() = std::move(function); }, py::arg("function"));
  m.def("set_autocast", &set_autocast, py::arg("dtype"),
        "The half type that products are computed in on this thread, or None. Returns what was set before.");
  m.def(
      "set_grad_enabled", [](bool on) { return std::exchange(grad_enabled, on); }, py::arg("enabled"),
      "Returns what was set before.");
}

}  // namespace edfcore
