// An op is data: one constant record that says everything the engine needs to know about it.
#pragma once

#include <cstdint>
#include <span>

#include "core/device.h"
#include "core/error.h"
#include "core/kernel.h"
#include "core/tensor.h"

namespace edfcore {

struct Op;
struct Node;  // graph/node.h; ops only pass pointers to it along

// The arguments of `infer`: reads `in`, resolves `attrs`, fills `out`. Failing is what these helpers are for:
// the message is prefixed with the op's name, and the executor adds where the node was made.
struct Inference {
  const Op& op;
  std::span<const Spec> in;
  Attrs& attrs;
  std::span<Spec> out;

  template <class... Parts>
  [[noreturn]] void shape_error(const Parts&... parts) const;
  template <class... Parts>
  [[noreturn]] void dtype_error(const Parts&... parts) const;
};

// A value on the tape as a vjp sees it: the node, which of its outputs, and that output's dtype and shape.
// An empty Value is "no contribution" (a gradient that is zero or not wanted).
struct Value {
  Node* node = nullptr;
  std::int32_t index = 0;
  const Spec* spec = nullptr;
  explicit operator bool() const { return node != nullptr; }
};

// Receives the ops that a vjp emits: runs them at once, or records them for a plan.
class Builder {
 public:
  virtual Value emit(const Op& op, std::span<const Value> inputs, const Attrs& attrs) = 0;

 protected:
  ~Builder() = default;
};

struct VjpArgs {
  std::span<const Value> inputs;
  std::span<const Value> outputs;
  std::span<const Value> grads;  // of the outputs; may hold empty ones, never all empty
  const Attrs& attrs;            // as resolved by infer
  std::span<const bool> wanted;  // by input; work for an unwanted one is wasted, not wrong
  std::span<Value> result;       // by input; all empty on entry
};

// One implementation per instruction set.
struct CpuKernel {
  Kernel base = nullptr;
  Kernel exact = nullptr;
  Kernel avx2 = nullptr;
  Kernel avx512 = nullptr;
};

// "When input `input` was produced by `producer`, and its value was not assigned by hand, run `into` on the
// producer's own inputs in its place." This is how log_loss of a softmax becomes the stable loss of the
// scores, in every mode.
struct Fusion {
  const Op* producer = nullptr;
  std::int32_t input = 0;
  const Op* into = nullptr;
};

// "When several steps do this to the same input, each for itself, one step can do it for all": input `input`
// goes through `step` first, and `attrs` then say so. Only where `worth` it, for these shapes.
struct Sharing {
  std::int32_t input = 0;
  const Op* step = nullptr;
  bool (*worth)(std::span<const Spec> in, const Attrs&, DeviceType) = nullptr;
  void (*attrs)(Attrs&) = nullptr;
};

// "The sum of what steps of this op make and of something else is one step": `into` takes that first, and
// then each step's inputs, of no more steps than `most` says; 0, or no `most`: none. They have the same
// dtypes, shapes and attrs.
//
// "So is a parameter's descent along what this op makes": `descent` takes the parameter, and then this op's
// inputs.
struct Accumulation {
  const Op* into = nullptr;
  std::int64_t (*most)(std::span<const Spec> in, const Attrs&, DeviceType) = nullptr;
  const Op* descent = nullptr;
  bool (*descends)(std::span<const Spec> in, const Attrs&, DeviceType) = nullptr;
};

// "A step of this op and the one that takes its gradient back are one step": `grad` takes the gradient of the
// output, and then this op's inputs; `into` takes those inputs, and then that gradient, and makes what `grad`
// makes, and then what this op makes. None of them has attrs.
struct Joining {
  const Op* grad = nullptr;
  const Op* into = nullptr;
};

enum OpFlags : std::uint32_t {
  op_internal = 1u << 0,       // emitted by vjps only; has no Python function
  op_no_grad = 1u << 1,        // has no vjp, by design
  op_elementwise = 1u << 2,    // element i of the output depends on element i of same-shaped inputs only
  op_view = 1u << 3,           // the output is input 0's memory under another shape
  op_mutates = 1u << 4,        // the output is input 0, updated in place
  op_takes_numbers = 1u << 6,  // a bare number among the inputs takes the dtype of the others
  op_checks = 1u << 7,     // the kernel looks for errors in the data, and runs though nobody reads its output
  op_sums = 1u << 8,       // the output is the sum of the two inputs
  op_descends = 1u << 10,  // moves a parameter, input 0, along its gradient, input 1
  op_finishes = 1u << 9,   // the CPU kernel calls Launch::tail as parts of output 0 are complete
  op_any_dtype = 1u << 11,     // the kernels take half types as they are; others see float32 (ops/widened.h)
  op_half_on_cuda = 1u << 13,  // the CUDA kernel alone does
  op_converts = 1u << 12,      // the output is input 0 in another dtype, or nothing is to be done
  op_ends = 1u << 14,          // the CUDA kernel does what Launch::next says, but not with half types
  op_uniform =
      1u << 15,  // of inputs that hold one floating number each it makes one number, the same everywhere
  op_ending = 1u << 16,   // a product on a GPU may end with it (Launch::next)
  op_producer = 1u << 5,  // some op fuses with it, so a node keeps its inputs even when no gradient is wanted
};

inline constexpr std::int32_t variadic = -1;

// What autocast does with floating inputs that are not float64: all become the half type; half ones become
// float32; or they do where another one is float32.
enum class Autocast : std::uint8_t { none, half, wide, widest };

struct Op {
  const char* name;
  std::int32_t arity;  // number of inputs, or `variadic`
  void (*infer)(Inference&);
  CpuKernel cpu;
  Kernel cuda = nullptr;  // null in builds without CUDA
  void (*vjp)(Builder&, const VjpArgs&) = nullptr;
  std::int64_t (*scratch)(std::span<const Spec> in, std::span<const Spec> out, const Attrs&,
                          DeviceType) = nullptr;
  std::int32_t inplace = -1;  // input whose memory output 0 may take when that input dies here
  const Fusion* fuses = nullptr;
  const Sharing* shares = nullptr;
  const Accumulation* accumulates = nullptr;
  const Joining* joins = nullptr;
  std::uint32_t flags = 0;
  std::int32_t outputs = 1;  // of several, a kernel leaves out those without data, which nobody reads
  std::uint32_t unread =
      0;  // bit i: the kernel does not read input i, which is there for its vjp and its shape
  std::int32_t numbers_from = 0;  // op_takes_numbers: the first input that may be a number or lend its dtype
  Autocast autocast = Autocast::none;
  std::uint32_t indices = 0;  // bit i: input i holds labels or positions, which autocast leaves alone
  // Floating-point operations, for people who read plans; null: one for every element.
  std::int64_t (*flops)(std::span<const Spec> in, std::span<const Spec> out, const Attrs&) = nullptr;
  ManyKernel cuda_many = nullptr;    // does several of them in fewer launches than one each
  ChainKernel cuda_chain = nullptr;  // does steps of such ops in a row
  Formula formula = {};              // of one that is part of chains, or that a product may end with
  std::int64_t most_columns = 0;     // not 0: a product may end with it that has no more
  std::int32_t sums_columns =
      -1;  // of a product: the input whose columns its CUDA kernel may sum up (Launch::next)

  bool reads(std::size_t input) const { return input >= 32 || !(unread >> input & 1u); }
  bool takes_index(std::size_t input) const { return input < 32 && (indices >> input & 1u); }
};

template <class... Parts>
void Inference::shape_error(const Parts&... parts) const {
  fail(ErrorKind::shape, "[", op.name, "] ", parts...);
}

template <class... Parts>
void Inference::dtype_error(const Parts&... parts) const {
  fail(ErrorKind::dtype, "[", op.name, "] ", parts...);
}

}  // namespace edfcore
