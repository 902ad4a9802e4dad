// A Node is an op, its inputs and its attributes, with a number that grows as nodes are made.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/ref.h"
#include "core/tensor.h"
#include "ops/op.h"

namespace edfcore {

struct Node;
void retain(Node* node);
void release(Node* node);  // frees long chains iteratively
using NodeRef = Ref<Node>;

// One output of a node, as another node's input.
struct Edge {
  NodeRef node;
  std::int32_t index = 0;
  std::uint32_t version = 0;  // of the input's memory when the node last ran
};

// The inputs of a node. Three of them, more than nearly every op has, need no memory of their own.
class Edges {
 public:
  Edges() = default;
  Edges(std::initializer_list<Edge> edges) {
    for (const Edge& edge : edges) push_back(edge);
  }
  Edges(Edges&& other) noexcept { swap(other); }
  Edges(const Edges& other) {
    reserve(other.size());
    for (const Edge& edge : other) push_back(edge);
  }
  Edges& operator=(Edges other) noexcept {
    swap(other);
    return *this;
  }

  void reserve(std::size_t n) {
    if (n <= capacity_) return;
    auto more = std::make_unique<Edge[]>(n);
    std::move(begin(), end(), more.get());
    many_ = std::move(more);
    capacity_ = static_cast<std::uint32_t>(n);
  }
  void push_back(Edge edge) {
    if (size_ == capacity_) reserve(std::size_t{2} * size_);
    begin()[size_++] = std::move(edge);
  }
  void clear() {
    for (Edge& edge : *this) edge = {};
    size_ = 0;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  Edge* begin() { return many_ ? many_.get() : few_; }
  Edge* end() { return begin() + size_; }
  const Edge* begin() const { return many_ ? many_.get() : few_; }
  const Edge* end() const { return begin() + size_; }
  Edge& operator[](std::size_t i) { return begin()[i]; }
  const Edge& operator[](std::size_t i) const { return begin()[i]; }

 private:
  static constexpr std::uint32_t inline_capacity = 3;
  void swap(Edges& other) noexcept {
    std::swap(few_, other.few_);
    std::swap(many_, other.many_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
  Edge few_[inline_capacity];
  std::unique_ptr<Edge[]> many_;
  std::uint32_t size_ = 0;
  std::uint32_t capacity_ = inline_capacity;
};

// Where in the user's program a node was made. The graph does not know what is behind the pointer: whoever
// captures sites (the Python bindings) supplies the two functions.
struct Site {
  void* code = nullptr;
  std::int32_t position = -1;
};
struct SiteHooks {
  void (*release)(const Site&) = nullptr;
  std::string (*describe)(const Site&) = nullptr;  // "train.py:14"
};
SiteHooks& site_hooks();

// The same for the object behind a leaf of Role::host, and for the dtype that the host shows values in.
struct HostHooks {
  void (*release)(void* host) = nullptr;
  DType (*shown)(DType dtype) = nullptr;
};
HostHooks& host_hooks();
DType shown_on_host(DType dtype);

enum class Role : std::uint8_t {
  computed,   // has an op
  constant,   // a leaf that nobody assigns
  input,      // a leaf set by assignment, of any shape
  parameter,  // a leaf with a fixed shape, updated in place
  number,  // a leaf with one element and no dtype of its own: `attrs.scalar`, in the dtype its consumer asks
           // for
  host,    // a leaf whose value comes from, and whose gradient goes to, an object outside the engine
};

// A value or a gradient, on the graph's device, with the copy of it that was handed out to the host (on the
// CPU there is none where the host has the dtype: the array handed out is the memory itself). A mirror may be
// written by whoever holds it, so it is copied back before the next use on the device.
struct Cell {
  Tensor tensor;
  std::unique_ptr<Tensor> mirror;

  explicit operator bool() const { return static_cast<bool>(tensor); }
  const Tensor& on_device();  // the tensor, after copying back a mirror
  const Tensor& on_host();    // the memory to hand out
  void set(Tensor t);
  bool held() const;  // somebody else has its memory, or its mirror, and may write it
  void updated();     // the tensor was written in place: a mirror that somebody holds follows
};

struct Output {
  Spec spec;
  Cell value;
  NodeRef grad;               // its value is output 0 of that node; null: zero
  std::uint32_t version = 0;  // of the value's memory when the node last ran
};

// A gradient on its way to a node that was fused into its consumer (log_loss of a softmax): kept apart from
// the node's own gradient, so that it can take the stable way when it goes on, and still be looked at.
struct Deferred {
  const Op* op;        // as the consumer was written
  const Op* into;      // as it ran
  std::int32_t input;  // which of its inputs this node is
  Edges inputs;        // its inputs; at `input` this node's value then, or nothing: not the node, in a cycle
  Attrs resolved;
  NodeRef grad;  // of the consumer's output
};

// A gradient with deferred parts in it that was handed out: if its holder writes it, the change is what
// counts.
struct Shown {
  Tensor handed_out;     // on the host
  Tensor before;         // what it held then
  NodeRef own;           // the node's own gradient then
  std::size_t deferred;  // and how many parts were deferred
};

// What a parameter's update keeps from one step to the next.
struct Optimised {
  Tensor first, second;      // moments of the gradient, like the parameter; null: none yet
  Tensor taken;              // one int64 beside them: how many steps the updates have taken
  std::int64_t steps = 0;    // the same, if all that a device has yet to do goes well (steps_of)
  std::uint64_t errors = 0;  // data_errors() when that was last known
};

struct Node {
  std::atomic<std::int32_t> refs{0};
  Role role = Role::constant;
  bool recorded = false;       // runs when told (EDF), not when made
  bool requires_grad = false;  // a gradient is to reach it
  bool assigned = false;       // its value was set by hand since it last ran
  bool has_grad = false;       // a backward pass has reached or zeroed it; a null gradient then means zero
  bool overridden = false;     // its object has methods of its own
  bool keep = false;           // plans are to keep its value and its gradient
  bool elided = false;         // a plan has done without its value and its gradient, where it has none
  bool grad_elided = false;    // a plan of Backward has done without its gradient, where it has none
  const Op* op = nullptr;
  const Op* ran = nullptr;     // what the last run used: `op`, or what it fuses into
  std::uint64_t mark = 0;      // the last walk that visited it
  std::uint64_t plans = 0;     // the plans that its list belongs to (graph/session.h)
  std::int32_t position = -1;  // its place in the list
  std::int32_t traced = -1;    // its copy in the trace whose mark this is
  Device device;
  std::uint64_t serial = 0;
  Edges inputs;
  Attrs attrs;  // as asked; of a leaf that is assigned, `dtype` is what floating values become
  Site site;
  Output output;  // the first, for nearly every op the only one

  // What few nodes have.
  std::unique_ptr<Attrs> other_attrs;  // as the last `infer` resolved them, where that changed them
  std::vector<Deferred> deferred;
  std::unique_ptr<Shown> shown;
  std::unique_ptr<Optimised> optimised;
  std::unique_ptr<std::string> name;  // of a parameter, for weights and messages
  std::vector<Output> more;
  void* host = nullptr;  // Role::host: the object outside, for whoever made the leaf

  // Programs make and drop nodes by the thousand, so their memory is kept for the next ones, thread by
  // thread.
  static void* operator new(std::size_t size);
  static void operator delete(void* memory);

  const Attrs& resolved() const { return other_attrs ? *other_attrs : attrs; }
  void resolve(const Attrs& with);

  Output& out(std::int32_t index) { return index == 0 ? output : more[static_cast<std::size_t>(index) - 1]; }
  Cell& value() { return output.value; }
  std::int32_t outputs() const { return 1 + static_cast<std::int32_t>(more.size()); }
};

// A node with nothing run yet. Throws a graph error when the number of inputs is not the op's.
NodeRef make_node(const Op& op, Edges inputs, const Attrs& attrs);
NodeRef make_leaf(Role role, Tensor value);
// Its dtype will be that of its consumer's other inputs.
NodeRef make_number(double number, Device device);
NodeRef make_number(std::int64_t number, Device device);

// Nobody will walk back through this node: it becomes a constant. One that others fuse with keeps the values
// it was computed from, but not where those came from.
void forget_history(Node& node);

// Lets go of nodes, the last one first: then what reads a node goes before it, and memory is walked once.
void let_go(std::vector<NodeRef>& nodes);

// " Node made at train.py:14.", or nothing when no site is known.
std::string made_at(const Node& node);

std::int64_t live_nodes();
std::uint64_t next_mark();  // for a new walk

}  // namespace edfcore
