// Running one node: infer, allocate, launch, look at the status word.
#include "graph/run.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "core/half.h"
#include "device/memory.h"
#include "graph/vjp.h"
#include "graph/watch.h"
#include "ops/cpu_features.h"
#include "ops/ops.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

[[noreturn]] void no_value(const Op& op, const Node& input, std::size_t i) {
  if (input.elided)
    fail(
        ErrorKind::graph, "[", op.name, "] input ", i,
        " has no value any more: nobody had looked at it, so the last step did without it. edf.keep(node) or "
        "edf.keep(\"all\") keeps it.");
  const char* advice = input.role == Role::computed ? "run Forward() first" : "assign its .value first";
  fail(ErrorKind::graph, "[", op.name, "] input ", i, " has no value yet: ", advice, ".");
}

// A reshape of a computed value is that value's memory. One of a leaf is a copy, since leaves are written in
// place. So is one in a recorded graph, where whoever is given an array may write it, and one on a GPU, where
// two nodes cannot share what they hand out.
bool shares_memory(const Op& op, const Resolution& what) {
  const Node& input = *what.inputs[0]->node;
  return (op.flags & op_view) && input.role == Role::computed && !input.recorded &&
         input.device.type == DeviceType::cpu;
}

struct Prepared {
  Resolution what;
  Attrs resolved;
  Small<Spec> in;   // dtypes and shapes of the inputs
  Small<Spec> out;  // and of the outputs, as inferred
};

template <class T>
void write_number(Node& leaf, DType dtype) {
  T value;
  if constexpr (std::is_integral_v<T>)
    value = leaf.attrs.n_ints == 1 ? static_cast<T>(leaf.attrs.ints[0]) : static_cast<T>(leaf.attrs.scalar);
  else if constexpr (std::is_floating_point_v<T>)
    value = static_cast<T>(leaf.attrs.scalar);
  else
    value = T(rounded_to_odd(leaf.attrs.scalar));
  Tensor tensor = allocate({dtype, {}}, leaf.device);
  backend(leaf.device).upload(tensor.data(), &value, sizeof value);
  leaf.output.spec = tensor.spec;
  leaf.value().set(std::move(tensor));
}

template <class T>
bool within(const Attrs& number) {
  return number.n_ints == 1 && number.ints[0] >= static_cast<std::int64_t>(std::numeric_limits<T>::min()) &&
         number.ints[0] <= static_cast<std::int64_t>(std::numeric_limits<T>::max());
}

bool fits(const Attrs& number, DType dtype) {
  switch (dtype) {
    case DType::i32:
      return within<std::int32_t>(number);
    case DType::i64:
      return within<std::int64_t>(number);
    case DType::u8:
      return within<std::uint8_t>(number);
    default:
      return true;
  }
}

// Bare numbers take the dtype of the first input that has one to lend.
void settle_numbers(const Op& op, const Resolution& what) {
  const Node* like = nullptr;
  for (auto i = static_cast<std::size_t>(op.numbers_from); i < what.inputs.size(); ++i)
    if (!like && what.inputs[i]->node->role != Role::number) like = what.inputs[i]->node.get();
  const DType dtype = like ? like->output.spec.dtype : DType::f32;
  for (const Edge* edge : what.inputs) {
    Node& leaf = *edge->node;
    if (leaf.role != Role::number || (leaf.value() && leaf.output.spec.dtype == dtype)) continue;
    if (!fits(leaf.attrs, dtype))
      fail(ErrorKind::dtype, "[", op.name, "] the number ", leaf.attrs.scalar, " is no ", dtype_name(dtype),
           ": convert the other input with cast.");
    switch (dtype) {
      case DType::f64:
        write_number<double>(leaf, dtype);
        break;
      case DType::i32:
        write_number<std::int32_t>(leaf, dtype);
        break;
      case DType::i64:
        write_number<std::int64_t>(leaf, dtype);
        break;
      case DType::u8:
        write_number<std::uint8_t>(leaf, dtype);
        break;
      case DType::bf16:
        write_number<BFloat16>(leaf, dtype);
        break;
      case DType::f16:
        write_number<Float16>(leaf, dtype);
        break;
      default:
        write_number<float>(leaf, DType::f32);
    }
  }
}

// What the user wrote is checked as the user wrote it, whatever it fuses into: errors speak of that.
void check_as_written(const Node& node) {
  Small<Spec> in, out;
  for (const Edge& edge : node.inputs) in.push_back(output_of(edge).spec);
  out.resize(static_cast<std::size_t>(node.op->outputs));
  Attrs attrs = node.attrs;
  Inference inference{*node.op, in, attrs, out};
  node.op->infer(inference);
}

// What the op makes of the specs of its inputs.
Prepared inferred(const Node& node, Resolution what) {
  Prepared p{std::move(what), node.attrs, {}, {}};
  for (const Edge* edge : p.what.inputs) p.in.push_back(output_of(*edge).spec);
  if (p.what.fusion) check_as_written(node);
  p.out.resize(static_cast<std::size_t>(p.what.op->outputs));
  Inference inference{*node.op, p.in, p.resolved, p.out};
  p.what.op->infer(inference);
  return p;
}

Prepared prepare(const Node& node) {
  const Op& op = *node.op;
  Resolution what = resolve(node);
  if (op.flags & op_takes_numbers) settle_numbers(op, what);
  for (std::size_t i = 0; i < node.inputs.size(); ++i)
    if (!output_of(node.inputs[i]).value) no_value(op, *node.inputs[i].node, i);
  for (std::size_t i = 1; i < what.inputs.size(); ++i) {
    const Device first = output_of(*what.inputs[0]).value.tensor.device();
    const Device device = output_of(*what.inputs[i]).value.tensor.device();
    if (!(device == first))
      fail(ErrorKind::device, "[", op.name, "] input 0 is on ", device_name(first), " and input ", i, " on ",
           device_name(device), ": move one of them.");
  }
  return inferred(node, std::move(what));
}

void remember(Node& node, const Prepared& p) {
  for (Edge& edge : node.inputs) edge.version = memory_version(edge);
  node.ran = p.what.op;
  node.resolve(p.resolved);
}

// A launch, and the memory that it works on.
struct Arranged {
  Device device;
  Small<View> in, out;
  std::vector<Tensor> results;
  Tensor scratch;
  Launch launch{};
};

// A launch on the CPU is over before the thread's next one, so they can share a little; else null. Where
// addresses are checked each has its own, or what is written behind its end would not be seen.
void* small_scratch(std::int64_t bytes, Device device) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr std::int64_t most = 0;
#else
  constexpr std::int64_t most = 1 << 14;
#endif
  struct Room {
    alignas(64) std::byte bytes[most > 0 ? most : 1];
  };
  thread_local std::unique_ptr<Room> room;
  if (device.type != DeviceType::cpu || bytes == 0 || bytes > most) return nullptr;
  if (!room) room.reset(new Room);
  return room->bytes;
}

void arrange(Node& node, const Prepared& p, Arranged& a) {
  const Op& op = *p.what.op;
  if ((op.flags & op_mutates) && p.what.inputs[0]->node->op)
    fail(ErrorKind::graph, "[", op.name, "] only a leaf can be updated in place, and this is the value of [",
         p.what.inputs[0]->node->op->name, "].");
  for (const Edge* edge : p.what.inputs) a.in.push_back(output_of(*edge).value.on_device().view());
  a.device = p.what.inputs.empty() ? node.device : output_of(*p.what.inputs[0]).value.tensor.device();
  for (std::size_t i = 0; i < p.out.size(); ++i) {
    Cell& cell = node.out(static_cast<std::int32_t>(i)).value;
    Tensor tensor;
    if ((op.flags & op_mutates) || shares_memory(op, p.what)) {
      tensor = {p.out[i], output_of(*p.what.inputs[0]).value.tensor.buffer};
    } else if (reusable(cell, p.out[i], a.device)) {
      tensor = {p.out[i], cell.tensor.buffer};
    } else {
      tensor = allocate(p.out[i], a.device);
    }
    a.results.push_back(std::move(tensor));
  }
  for (const Tensor& tensor : a.results) a.out.push_back(tensor.view());
  if (shares_memory(op, p.what)) return;
  Backend& where = backend(a.device);
  const std::int64_t bytes = scratch_of(op, p.in, p.out, p.resolved, a.device.type);
  void* scratch = small_scratch(bytes, a.device);
  if (bytes > 0 && !scratch) {
    a.scratch = allocate({DType::u8, Shape{bytes}}, a.device);
    scratch = a.scratch.data();
  }
  a.launch = {a.in.data(),
              a.out.data(),
              static_cast<std::int32_t>(a.in.size()),
              static_cast<std::int32_t>(a.out.size()),
              &p.resolved,
              scratch,
              where.status(),
              a.device.type == DeviceType::cpu ? 0 : ops::index_of(*node.op),
              where.stream()};
}

void start(const Node& node, const Prepared& p, const Arranged& a) {
  const Launcher kernel = launcher_of(*p.what.op, p.in, p.out, a.device, current_isa());
  Backend& where = backend(a.device);
  std::optional<Watched> watched;
  if (watch().on)
    watched.emplace(*node.op, node.recorded ? "forward" : node.site.code ? "eager" : "backward", a.device);
  kernel(a.launch);
  where.launched({&node.op->name, 1});
  if (a.device.type == DeviceType::cpu && a.launch.status->code != Status::ok)
    fail(ErrorKind::data, status_text(*node.op, where.take_status()));
  if (watched) watched->ended(a.in, a.out);
}

void take_results(Node& node, const Prepared& p, Arranged& a) {
  for (std::size_t i = 0; i < a.results.size(); ++i) {
    Output& output = node.out(static_cast<std::int32_t>(i));
    output.spec = p.out[i];
    output.value.set(std::move(a.results[i]));
    output.version = output.value.tensor.buffer->version;
  }
  if (p.what.op->flags & op_mutates) {
    ++node.output.value.tensor.buffer->version;
    output_of(*p.what.inputs[0]).value.updated();
  }
  remember(node, p);
  node.device = a.device;
  node.assigned = node.elided = false;
}

void execute(Node& node, const Prepared& p) {
  Arranged arranged;
  arrange(node, p, arranged);
  if (!shares_memory(*p.what.op, p.what)) start(node, p, arranged);
  take_results(node, p, arranged);
}

// Adds the place where the node was made to what `action` throws.
template <class Action>
void with_place(const Node& node, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    throw Error(error.kind(), error.what() + made_at(node));
  }
}

// The producer's value must be what its inputs still give: not assigned by hand, and, on the eager face where
// nothing runs again, from inputs that were not updated since.
bool may_fuse(const Node& node, const Node& producer) {
  if (producer.assigned || producer.recorded != node.recorded) return false;
  return producer.recorded || inputs_unchanged(producer);
}

}  // namespace

bool reusable(const Cell& cell, const Spec& spec, Device device) {
  return cell.tensor && cell.tensor.device() == device && cell.tensor.buffer->bytes == spec.bytes() &&
         cell.tensor.buffer->free != nullptr && !cell.held();
}

void make_room(Cell& cell, const Spec& spec, Device device) {
  if (reusable(cell, spec, device))
    cell.set({spec, cell.tensor.buffer});
  else
    cell.set(allocate(spec, device));
}

const Op& op_of(const Status& status) { return *ops::all()[static_cast<std::size_t>(status.op)]; }

std::string status_text(const Op& op, const Status& status) {
  if (status.code == Status::nan_refused)
    return text("[", op.name, "] input ", status.input, " holds a NaN at position ", status.row, ".");
  return text("[", op.name, "] input ", status.input, " holds ", status.value, " at position ", status.row,
              ": valid values are 0 to ", status.bound - 1, ".");
}

std::uint32_t memory_version(const Edge& edge) {
  const Tensor& tensor = output_of(edge).value.tensor;
  return tensor ? tensor.buffer->version : 0;
}

bool inputs_unchanged(const Node& node) {
  for (const Edge& edge : node.inputs)
    if (edge.version != memory_version(edge)) return false;
  return true;
}

Resolution resolve(const Node& node) {
  Resolution what{node.op, nullptr, {}};
  const Fusion* fusion = node.op->fuses;
  const Node* producer = fusion ? node.inputs[static_cast<std::size_t>(fusion->input)].node.get() : nullptr;
  if (producer && producer->op == fusion->producer && may_fuse(node, *producer)) {
    what.op = fusion->into;
    what.fusion = fusion;
  }
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (what.fusion && static_cast<std::int32_t>(i) == fusion->input)
      for (const Edge& edge : producer->inputs) what.inputs.push_back(&edge);
    else
      what.inputs.push_back(&node.inputs[i]);
  }
  return what;
}

void run(Node& node) {
  with_place(node, [&] {
    const Prepared p = prepare(node);
    execute(node, p);
  });
}

void run_together(const Op& op, std::span<const NodeRef> nodes) {
  const bool one_by_one = nodes.size() < 2 || nodes[0]->inputs[0].node->device.type == DeviceType::cpu ||
                          !op.cuda_many || watch().on ||
                          std::any_of(nodes.begin(), nodes.end(), [](const NodeRef& n) {
                            return is_half(n->inputs[0].node->output.spec.dtype);  // runs widened
                          });
  if (one_by_one) {
    for (const NodeRef& node : nodes) run(*node);
    return;
  }
  struct Own {
    Prepared prepared;
    Arranged arranged;
  };
  std::deque<Own> all;  // what a launch points to stays where it is
  std::vector<Launch> launches;
  for (const NodeRef& node : nodes)
    with_place(*node, [&] {
      Own& own = all.emplace_back(Own{prepare(*node), {}});
      arrange(*node, own.prepared, own.arranged);
      launches.push_back(own.arranged.launch);
    });
  op.cuda_many(launches.data(), static_cast<std::int64_t>(launches.size()));
  backend(all[0].arranged.device).launched({&op.name, 1});
  for (std::size_t i = 0; i < nodes.size(); ++i) take_results(*nodes[i], all[i].prepared, all[i].arranged);
}

Resolution infer_shapes(Node& node) {
  Resolution what = resolve(node);
  with_place(node, [&] {
    if (node.op->flags & op_takes_numbers) settle_numbers(*node.op, what);
    Prepared p = inferred(node, std::move(what));
    for (std::size_t i = 0; i < p.out.size(); ++i) node.out(static_cast<std::int32_t>(i)).spec = p.out[i];
    node.ran = p.what.op;
    node.resolve(p.resolved);
    what = std::move(p.what);
  });
  return what;
}

void infer_only(Node& node) {
  with_place(node, [&] { remember(node, prepare(node)); });
}

static std::atomic<std::uint64_t> errors{0};

std::uint64_t data_errors() { return errors.load(std::memory_order_relaxed); }

Status take_status(Device device) {
  const Status status = backend(device).take_status();
  if (status.code != Status::ok) errors.fetch_add(1, std::memory_order_relaxed);
  return status;
}

void check_status(Device device) {
  const Status status = take_status(device);
  if (status.code != Status::ok) fail(ErrorKind::data, status_text(op_of(status), status));
}

}  // namespace edfcore
