// What a kernel sees. Plain data only: this header is compiled once per instruction set and by the CUDA
// compiler, so it holds no inline function that a linker could share between them.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace edfcore {

// One argument of a kernel: dense, row-major memory. `data` may be null when `size` is 0, and where nobody
// reads it: of an input that the kernel takes the shape of, or of one of several outputs.
struct View {
  void* data;
  const std::int64_t* dims;
  std::int32_t rank;
  DType dtype;
  std::int64_t size;  // number of elements
};

inline constexpr int max_attr_ints = 8;

// What an op was asked for beside its inputs. `infer` resolves it (negative axes, "all axes", -1 in a shape),
// so that a kernel reads final values.
struct Attrs {
  std::int64_t ints[max_attr_ints] = {};  // axes, a permutation, or a target shape
  std::int32_t n_ints = 0;                // all_axes before infer: every axis
  bool keepdims = false;
  bool trans_a = false;
  bool trans_b = false;
  DType dtype = DType::f32;  // target of cast
  double scalar = 0;         // learning rate, factor: a run-time slot, never part of a plan's key
  double scalar2 = 0;        // the second number of an op that takes two
};

inline constexpr std::int32_t all_axes = -1;

// An error that only the data show (a label out of range). A kernel writes the first it meets, with code
// last; the executor raises. On the CPU "first" means the lowest row; on a GPU any one of them.
struct Status {
  enum Code : std::int32_t { ok = 0, index_out_of_range = 1, nan_refused = 2 };
  std::int32_t code;
  std::int32_t op;     // Launch::op of the kernel that wrote it
  std::int32_t input;  // which input of the op holds the bad value
  std::int32_t step;   // Launch::step
  std::int64_t row;    // position of the bad value in that input, flattened
  std::int64_t value;  // the value found
  std::int64_t bound;  // valid values are 0 .. bound - 1
  std::int64_t run;    // what Launch::run pointed to
};

// What follows a kernel whose op has op_finishes: it is called whenever elements [begin, end) of the output
// are complete, by whichever thread completed them, for each element once.
struct Tail {
  void (*run)(void* context, std::int64_t begin, std::int64_t end);
  void* context;
};

enum class Formula : std::int32_t;  // ops/elementwise.h; 0 is none

struct Launch {
  const View* in;
  const View* out;  // preallocated by the engine, contents undefined
  std::int32_t n_in;
  std::int32_t n_out;
  const Attrs* attrs;
  void* scratch;  // engine-owned, 64-byte aligned, of the size that Op::scratch asked for
  Status* status;
  std::int32_t op;  // what a kernel writes to Status::op
  void* stream;     // cudaStream_t on a GPU, null on the CPU
  const Tail* tail = nullptr;
  // Of an update on a GPU, where not null: device memory with the two numbers that are to be read instead of
  // those in `attrs`, so that a launch that was written down can be repeated when they are others.
  const double* numbers = nullptr;
  // Of a product on a GPU, where not null: the step that is done with each of its elements before that is
  // stored, whose first input is the product, which itself is stored only where it has memory; or one that
  // sums up the columns of its right operand.
  const Launch* next = nullptr;
  Formula formula = {};               // what that step does; of a step of a chain, what it does itself
  std::int32_t step = -1;             // of a plan
  const std::int64_t* run = nullptr;  // device memory: which of several runs of it
};

// Never allocates, synchronises or throws, so that it can always be replayed and captured.
using Kernel = void (*)(const Launch&);
// Several launches of one op at once. None of them touches what another one writes.
using ManyKernel = void (*)(const Launch* launches, std::int64_t count);

// Elementwise steps on a GPU, one after another, in one kernel. What only they hand on to each other has no
// memory.
struct Chain {
  const Launch* steps;
  std::int64_t count;
  const std::int32_t* values;  // step by step, which value each input is, and which one the output
};
inline constexpr int most_chain_values = 16;
using ChainKernel = void (*)(const Chain&);

}  // namespace edfcore
