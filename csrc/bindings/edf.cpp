// EDF's three calls: walks over a Python list in which nodes of ours and objects of the user's stand in any
// order.
#include <map>

#include "bindings/bindings.h"
#include "bindings/walk.h"
#include "core/error.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/session.h"

namespace edfcore {
namespace {

// The functions that a class of ours has when nobody overrode them.
struct Methods {
  py::object forward, backward, addgrad, sgd;
};
Methods& originals() {
  static auto* const instance = new Methods;  // outlives the interpreter's teardown
  return *instance;
}
const Methods& names() {
  static const auto* const instance =
      new Methods{py::str("forward"), py::str("backward"), py::str("addgrad"), py::str("SGD")};
  return *instance;
}

py::object attribute(py::handle object, const py::object& name) {
  PyObject* found = PyObject_GetAttr(object.ptr(), name.ptr());
  if (!found) PyErr_Clear();
  return py::reinterpret_steal<py::object>(found);
}

// What was set on the object itself. Classes of ours all have a __dict__.
py::dict own_attributes(py::handle object) {
  PyObject* dict = PyObject_GenericGetDict(object.ptr(), nullptr);
  if (!dict) throw py::error_already_set();
  return py::reinterpret_steal<py::dict>(dict);
}

py::object method(py::handle item, const py::object& name, std::size_t position, const char* list) {
  PyObject* bound = PyObject_GetAttr(item.ptr(), name.ptr());
  if (!bound) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
    fail(ErrorKind::graph, list, "[", position, "] is a ", Py_TYPE(item.ptr())->tp_name, ", which has no ",
         std::string(py::str(name)), "().");
  }
  return py::reinterpret_steal<py::object>(bound);
}

// Consecutive nodes of ours, which run without the GIL.
using Nodes = std::vector<NodeRef>;

template <class Run>
void flush(Nodes& segment, const Run& run) {
  if (segment.empty()) return;
  const Nodes nodes = std::exchange(segment, {});
  const Turn turn;
  run(nodes);
}

// Walks over a list that Python has a say in: begins, walks, and ends whatever happens.
template <class Begin, class Walk>
void walk_over(const Begin& begin, const Walk& walk) {
  const auto end = [](bool complete) {
    const Turn turn;
    session().mixed.end(complete);
  };
  try {
    {
      const Turn turn;
      begin();
    }
    walk();
  } catch (...) {
    end(false);
    throw;
  }
  end(true);
}

// Of a list of parameters that the engine updates; false when there is another.
bool all_ours_to_update(const py::list& items, std::vector<Node*>& parameters) {
  for (py::handle item : items) {
    if (!engine_updates(item)) return false;
    parameters.push_back(&as_handle(item)->get());
  }
  return true;
}

void walk_forward(const py::object& comp_nodes) {
  // The list itself where it is one: as in Python's own loop, a node made meanwhile runs too.
  const py::list items = py::isinstance<py::list>(comp_nodes) ? py::list(comp_nodes) : list_of(comp_nodes);
  const Items known(items);
  if (known.all_ours) {
    const Turn turn;
    return session().forward(known.nodes);
  }
  CopyMeter meter(items, known, CopyMeter::forward);
  const auto run = [](const Nodes& nodes) { session().mixed.forward(nodes); };
  const auto walk = [&] {
    Nodes segment;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const py::object item = items[i];
      if (Node* node = own_node(item)) {
        if (has_host_input(*node)) flush(segment, run);  // the object may look at what comes before
        meter.of_segments();
        for (const Edge& edge : node->inputs)
          if (edge.node->role == Role::host) pull_value(*edge.node, *node);
        meter.of_item(i);
        segment.emplace_back(node);
        continue;
      }
      flush(segment, run);
      meter.of_segments();
      method(item, names().forward, i, "CompNodes")();
      meter.of_item(i);
    }
    flush(segment, run);
    meter.of_segments();
  };
  walk_over([&] { session().mixed.begin_forward(known.nodes, known.begins); }, walk);
}

void zero_grads(const py::list& items) {
  for (py::handle item : items) {
    Handle* handle = as_handle(item);
    if (!handle) {
      zero_host_grad(item);
      continue;
    }
    Node& node = handle->get();
    if (!node.value() && !(node.elided && session().mixed.has(node)))
      fail(ErrorKind::graph, "Backward: [", node.op ? node.op->name : "Parameter",
           "] has no value yet: run Forward() first.", made_at(node));
    zero_grad(node);
    for (const Edge& edge : node.inputs)  // what an interrupted pass left undelivered
      if (edge.node->role == Role::host) zero_grad(*edge.node);
  }
}

void seed_loss(py::handle loss) {
  if (Handle* handle = as_handle(loss)) {
    Node& node = handle->get();
    node.output.grad = filled_like(node, share_of_batch(node.output.spec.shape));
    return;
  }
  const py::object held = value_or_none(loss);
  if (held.is_none())
    fail(ErrorKind::graph, "Backward: the loss, a ", Py_TYPE(loss.ptr())->tp_name,
         ", has no value yet: run Forward() first.");
  const py::array value = py::array::ensure(held);
  if (!value) throw py::error_already_set();
  const std::vector<std::int64_t> shape(value.shape(), value.shape() + value.ndim());
  const double share = share_of_batch(shape);
  loss.attr("grad").attr("fill")(share);
}

void walk_backward(const py::object& comp_nodes, const py::object& parameters, const py::object& loss) {
  const py::list items = list_of(comp_nodes), params = list_of(parameters);
  bool listed = false;
  for (py::handle item : items) listed |= item.is(loss);
  if (!listed) {
    if (!as_handle(loss) && !py::hasattr(loss, "forward"))
      fail(ErrorKind::graph, "Backward: the loss is a ", Py_TYPE(loss.ptr())->tp_name, ", not a node.");
    fail(ErrorKind::graph,
         "Backward: the loss is not among CompNodes: the graph was cleared or re-bound after it was made.");
  }
  const Items known(items);
  std::vector<Node*> ours;
  Handle* const handle = as_handle(loss);
  Node* const own = handle ? &handle->get() : nullptr;
  if (own && known.all_ours && all_ours_to_update(params, ours)) {
    const Turn turn;
    return session().backward(known.nodes, ours, *own);
  }
  CopyMeter meter(items, known, CopyMeter::backward);
  const auto run = [](const Nodes& nodes) { session().mixed.backward(nodes); };
  const auto walk = [&] {
    zero_grads(items);
    zero_grads(params);
    seed_loss(loss);
    Nodes segment;
    for (std::size_t i = items.size(); i-- > 0;) {
      if (Node* node = own_node(items[i])) {
        segment.emplace_back(node);
        if (!has_host_input(*node)) continue;
        flush(segment, run);
        meter.of_segments();
        for (const Edge& edge : node->inputs)
          if (edge.node->role == Role::host) push_grad(*edge.node, *node, params);
        meter.of_item(i);
        continue;
      }
      flush(segment, run);
      meter.of_segments();
      method(items[i], names().backward, i, "CompNodes")();
      meter.of_item(i);
    }
    flush(segment, run);
    meter.of_segments();
  };
  walk_over([&] { session().mixed.begin_backward(known.nodes, known.begins, own); }, walk);
}

// On a GPU a bad label of a step that has run shows only now: its kernels have left the parameters alone.
void check_update(Device device) {
  if (device.type != DeviceType::cpu && !session().pending()) check_status(device);
}

void sgd_all(const py::object& parameters, const py::object& given_rate) {
  const double learning_rate = as_rate(given_rate);
  const py::list items = list_of(parameters);
  std::vector<Node*> ours;
  if (all_ours_to_update(items, ours)) {
    const Turn turn;
    session().update(ours, {.rate = learning_rate});
    return check_update(device_of(ours));
  }
  ours.clear();
  Device device = current_device();
  {
    const Turn turn;
    session().step_aside(true);
    session().mixed.change();
  }
  const auto flush_ours = [&] {
    const std::vector<Node*> nodes = std::exchange(ours, {});
    const Turn turn;
    session().step_aside(true);  // what an SGD of somebody's own has asked for
    session().update_now(nodes, {.rate = learning_rate});
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (engine_updates(items[i])) {
      ours.push_back(&as_handle(items[i])->get());
      device = ours.back()->device;
      continue;
    }
    flush_ours();
    method(items[i], names().sgd, i, "Parameters")();
  }
  flush_ours();
  const DeviceWait wait(device);
  check_update(device);
}

void optimise_all(const py::object& parameters, const py::object& given_rate, const std::string& name,
                  double decay, double beta1, double beta2, double epsilon) {
  const Rule rule = as_rule(name, given_rate, decay, beta1, beta2, epsilon);
  const py::list items = list_of(parameters);
  std::vector<Node*> ours;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!engine_updates(items[i]))
      fail(ErrorKind::graph, name, ": Parameters[", i, "] is a ", Py_TYPE(items[i].ptr())->tp_name,
           ", which the engine does not update.");
    ours.push_back(&as_handle(items[i])->get());
  }
  const Turn turn;
  session().update(ours, rule);
  check_update(device_of(ours));
}

void sgd_one(const Handle& handle, const py::object& learning_rate) {
  Node* const node = &handle.get();
  const double rate = as_rate(learning_rate);
  const Turn turn;
  session().interfere(*node);
  session().update_now({&node, 1}, {.rate = rate});
}

}  // namespace

ClassTraits traits_of(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type = nullptr;
    unsigned int version = 0;
    ClassTraits traits;
  };
  static Known known[64];
  Known& slot = known[reinterpret_cast<std::uintptr_t>(type) / 64 % 64];
  bool valid = type->tp_version_tag != 0;
#if PY_VERSION_HEX < 0x030c0000
  valid &= PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG);
#endif
  if (valid && slot.type == type && slot.version == type->tp_version_tag) return slot.traits;
  const auto original = [&](py::object Methods::*which) {
    return attribute(reinterpret_cast<PyObject*>(type), names().*which).is(originals().*which);
  };
  ClassTraits traits;
  if (PyType_IsSubtype(type, node_type)) {
    traits.receives = original(&Methods::addgrad);
    traits.runs =
        PyType_IsSubtype(type, recorded_type) && original(&Methods::forward) && original(&Methods::backward);
  }
  slot = {type, type->tp_version_tag, traits};
  return traits;
}

Node* own_node(py::handle item) {
  if (!traits_of(Py_TYPE(item.ptr())).runs) return nullptr;
  Node& node = reinterpret_cast<NodeObject*>(item.ptr())->handle.get();
  return node.op && !node.overridden ? &node : nullptr;
}

bool engine_updates(py::handle parameter) {
  Handle* handle = as_handle(parameter);
  if (!handle ||
      !attribute(reinterpret_cast<PyObject*>(Py_TYPE(parameter.ptr())), names().sgd).is(originals().sgd))
    return false;
  return !own_attributes(parameter).contains(names().sgd);
}

double as_rate(const py::object& learning_rate) {
  const double rate = PyFloat_AsDouble(learning_rate.ptr());
  if (rate == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    fail(ErrorKind::dtype, "edfcore.learning_rate is a ", Py_TYPE(learning_rate.ptr())->tp_name,
         ": it must be a number.");
  }
  return rate;
}

py::list list_of(const py::object& items) {
  PyObject* list = PySequence_List(items.ptr());
  if (!list) throw py::error_already_set();
  return py::reinterpret_steal<py::list>(list);
}

void init_edf(py::module_& m) {
  session().poll = poll_signals;
  const py::object node = m.attr("Node");
  originals().forward = node.attr("forward");
  originals().backward = node.attr("backward");
  originals().addgrad = node.attr("addgrad");
  m.def(
      "set_original_sgd", [](py::object function) { originals().sgd = std::move(function); },
      py::arg("function"), "Tells which function is Parameter.SGD when nobody has overridden it.");
  m.def("forward", &walk_forward, py::arg("comp_nodes"));
  m.def("backward", &walk_backward, py::arg("comp_nodes"), py::arg("parameters"), py::arg("loss"));
  m.def("sgd", &sgd_all, py::arg("parameters"), py::arg("learning_rate"));
  m.def(
      "leave", [] { leave_session(false); }, "Finishes the step that is under way and lets go of its nodes.");
  m.def(
      "keep_all",
      [](bool on) {
        leave_session(true);
        session().keep_all = on;
      },
      py::arg("on"), "Runs every step node by node, so that all values stay.");
  m.def(
      "keep",
      [](const Handle& handle) {
        const Turn turn;
        session().keep(handle.get());
      },
      py::arg("node"));
  m.def(
      "set_straight_runs", [](std::int64_t n) { return std::exchange(session().straight_runs, n); },
      py::arg("n"), "How often a graph runs node by node before it is planned; returns what was set before.");
  m.def("plan_stats", [] {
    const PlanStats &steps = session().cache.stats, &replays = session().replays.stats;
    return std::map<std::string, std::int64_t>{{"hits", steps.hits + replays.hits},
                                               {"misses", steps.misses + replays.misses},
                                               {"compiled", steps.compiled + replays.compiled},
                                               {"segments", steps.segments},
                                               {"graphs", Recordings::repeated()}};
  });
  m.def("optimise", &optimise_all, py::arg("parameters"), py::arg("learning_rate"), py::arg("name"),
        py::arg("decay") = 0.0, py::arg("beta1") = 0.0, py::arg("beta2") = 0.0, py::arg("epsilon") = 0.0);
  m.def("sgd_one", &sgd_one, py::arg("parameter"), py::arg("learning_rate"));
}

}  // namespace edfcore
