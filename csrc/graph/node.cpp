// Making nodes, and freeing them without recursion however long the chain.
#include "graph/node.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/small.h"
#include "device/memory.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

std::atomic<std::uint64_t> next_serial{0};
std::atomic<std::int64_t> nodes_alive{0};

// Asks for a node's memory before it is needed.
void fetch(const void* node) {
#if defined(__GNUC__)
  for (std::size_t byte = 0; byte < sizeof(Node); byte += 64)
    __builtin_prefetch(static_cast<const char*>(node) + byte, 1);
#else
  static_cast<void>(node);
#endif
}

// Free memory of the size of a node, linked through itself.
struct SpareNodes {
  static constexpr int most = 1 << 12;
  void* head = nullptr;
  int count = 0;

  ~SpareNodes() {
    while (head) ::operator delete(take());
    count = most;  // what this thread still frees goes to the heap
  }
  void* take() {
    --count;
    void* const taken = std::exchange(head, *static_cast<void**>(head));
    if (head) fetch(head);
    return taken;
  }
};
thread_local SpareNodes spare_nodes;

using Pending = Small<Node*, 16>;

bool same(const Attrs& a, const Attrs& b) {
  const auto bits = [](double x) { return std::bit_cast<std::uint64_t>(x); };  // -0.0 is not 0.0
  return a.n_ints == b.n_ints && a.dtype == b.dtype && a.keepdims == b.keepdims && a.trans_a == b.trans_a &&
         a.trans_b == b.trans_b && bits(a.scalar) == bits(b.scalar) && bits(a.scalar2) == bits(b.scalar2) &&
         std::equal(a.ints, a.ints + std::max(a.n_ints, 0), b.ints);
}

// Moves the node's references into `pending`, so that its destructor releases nothing.
void unlink(Node& node, Pending& pending) {
  for (Edge& edge : node.inputs)
    if (Node* input = edge.node.detach()) pending.push_back(input);
  for (Deferred& deferred : node.deferred) {
    for (Edge& edge : deferred.inputs)
      if (Node* input = edge.node.detach()) pending.push_back(input);
    if (Node* grad = deferred.grad.detach()) pending.push_back(grad);
  }
  for (std::int32_t i = 0; i < node.outputs(); ++i)
    if (Node* grad = node.out(i).grad.detach()) pending.push_back(grad);
}

void destroy(Node* node) {
  if (node->site.code && site_hooks().release) site_hooks().release(node->site);
  if (node->host && host_hooks().release) host_hooks().release(node->host);
  nodes_alive.fetch_sub(1, std::memory_order_relaxed);
  delete node;
}

}  // namespace

void* Node::operator new(std::size_t size) {
  return spare_nodes.head ? spare_nodes.take() : ::operator new(size);
}

void Node::operator delete(void* memory) {
  SpareNodes& spare = spare_nodes;
  if (spare.count >= SpareNodes::most) return ::operator delete(memory);
  *static_cast<void**>(memory) = std::exchange(spare.head, memory);
  ++spare.count;
}

SiteHooks& site_hooks() {
  static SiteHooks hooks;
  return hooks;
}

HostHooks& host_hooks() {
  static HostHooks hooks;
  return hooks;
}

void retain(Node* node) { node->refs.fetch_add(1, std::memory_order_relaxed); }

void release(Node* node) {
  if (node->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Pending pending;
  unlink(*node, pending);
  destroy(node);
  while (!pending.empty()) {
    Node* next = pending[pending.size() - 1];
    pending.resize(pending.size() - 1);
    if (next->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
    unlink(*next, pending);
    destroy(next);
  }
}

void Node::resolve(const Attrs& with) {
  if (same(with, attrs))
    other_attrs.reset();
  else if (other_attrs)
    *other_attrs = with;
  else
    other_attrs = std::make_unique<Attrs>(with);
}

DType shown_on_host(DType dtype) { return host_hooks().shown ? host_hooks().shown(dtype) : dtype; }

// From a tensor to its mirror, or back.
static void mirror_into(Tensor& to, const Tensor& from) {
  if (to.spec.dtype == from.spec.dtype) return copy_into(to, from);
  copy_into(to, in_dtype(copy_to(from, cpu_device), to.spec.dtype));
}

const Tensor& Cell::on_device() {
  if (mirror) {
    mirror_into(tensor, *mirror);
    if (mirror->buffer->unique()) mirror.reset();  // nobody can write it any more
  }
  return tensor;
}

const Tensor& Cell::on_host() {
  const DType dtype = tensor.spec.dtype, shown = shown_on_host(dtype);
  if (tensor.device().type == DeviceType::cpu && shown == dtype) return tensor;
  if (!mirror)
    mirror = std::make_unique<Tensor>(allocate({shown, tensor.spec.shape}, cpu_device));
  else if (shown == dtype)
    return *mirror;
  else  // it shows what was written rounded
    mirror_into(tensor, *mirror);
  mirror_into(*mirror, tensor);
  return *mirror;
}

bool Cell::held() const {
  return tensor && (!tensor.buffer->unique() || (mirror && !mirror->buffer->unique()));
}

void Cell::set(Tensor t) {
  tensor = std::move(t);
  mirror.reset();
}

void Cell::updated() {
  if (mirror) mirror_into(*mirror, tensor);
}

static NodeRef new_node(Role role) {
  auto* node = new Node;
  node->role = role;
  node->serial = next_serial.fetch_add(1, std::memory_order_relaxed);
  nodes_alive.fetch_add(1, std::memory_order_relaxed);
  return NodeRef(node);
}

NodeRef make_node(const Op& op, Edges inputs, const Attrs& attrs) {
  const auto given = static_cast<std::int32_t>(inputs.size());
  if (op.arity != variadic && given != op.arity)
    fail(ErrorKind::graph, "[", op.name, "] takes ", op.arity, " inputs, but ", given, " were given.");
  NodeRef node = new_node(Role::computed);
  node->op = &op;
  node->attrs = attrs;
  for (const Edge& edge : inputs) node->requires_grad |= edge.node->requires_grad;
  if (op.flags & op_no_grad) node->requires_grad = false;
  node->inputs = std::move(inputs);
  if (op.outputs > 1) node->more.resize(static_cast<std::size_t>(op.outputs) - 1);
  return node;
}

NodeRef make_leaf(Role role, Tensor value) {
  NodeRef node = new_node(role);
  node->output.spec = value.spec;
  if (value) {
    node->device = value.device();
    node->output.value.set(std::move(value));
  }
  return node;
}

NodeRef make_number(double number, Device device) {
  NodeRef node = make_leaf(Role::number, {});
  node->attrs.scalar = number;
  node->device = device;
  return node;
}

NodeRef make_number(std::int64_t number, Device device) {
  NodeRef node = make_number(static_cast<double>(number), device);
  node->attrs.ints[0] = number;
  node->attrs.n_ints = 1;
  return node;
}

void forget_history(Node& node) {
  node.requires_grad = false;
  if (node.op->flags & op_producer) {
    for (Edge& edge : node.inputs)
      edge = {make_leaf(Role::constant, edge.node->out(edge.index).value.on_device()), 0};
    return;
  }
  node.inputs.clear();
  node.op = nullptr;
  node.role = Role::constant;
}

void let_go(std::vector<NodeRef>& nodes) {
  constexpr std::size_t ahead = 4;  // freeing a node is faster than its memory comes
  while (!nodes.empty()) {
    if (nodes.size() > ahead) fetch(nodes[nodes.size() - 1 - ahead].get());
    nodes.pop_back();
  }
}

std::string made_at(const Node& node) {
  if (!node.site.code || !site_hooks().describe) return "";
  return " Node made at " + site_hooks().describe(node.site) + ".";
}

std::uint64_t next_mark() {
  static std::atomic<std::uint64_t> mark{0};
  return ++mark;
}

std::int64_t live_nodes() { return nodes_alive.load(std::memory_order_relaxed); }

}  // namespace edfcore
