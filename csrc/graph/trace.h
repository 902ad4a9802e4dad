// A trace: the steps that a recorded program would run, with dtypes and shapes and no data. What is compiled.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "core/small.h"
#include "graph/node.h"
#include "graph/rule.h"

namespace edfcore {

struct TraceValue {
  Spec spec;
  std::int32_t slot = -1;  // its memory comes from outside: a leaf, or a value that is kept
};

// Memory from outside, which is bound when the plan runs.
struct Slot {
  Role role = Role::computed;  // of the leaf; computed: a value that a step makes and that is kept
  Tensor constant;  // what the plan itself holds: a number in the dtype that its consumer asked for
};

enum class Phase : std::uint8_t { forward, backward, update };

struct TraceStep {
  const Op* op = nullptr;
  Attrs attrs;
  Small<std::int32_t> in, out;  // values
  Phase phase = Phase::forward;
  bool gathered = false;        // an update that nothing stands behind but others, which it can be made with
  std::int32_t update = -1;     // of which parameter of the program; its scalars are given when the plan runs
  const Op* written = nullptr;  // what the program says, where it fused into `op`; what messages speak of
  std::int32_t node = -1;       // of the program's nodes, which one it is; -1: none
  std::int32_t place = -1;      // Trace::places: where that node was made, if that was asked for
};

struct Trace {
  Device device;
  std::vector<TraceValue> values;
  std::vector<Slot> slots;
  std::vector<TraceStep> steps;
  std::vector<std::string> places;  // " Node made at train.py:14."

  // Asks for a value that a step makes to be there after the run; returns its slot.
  std::int32_t keep(std::int32_t value);
  // The same for a gradient, which whoever looks at it may write: gets memory that nothing else reads but the
  // update of `parameter` (a value; -1: none).
  std::int32_t keep_grad(std::int32_t value, std::int32_t parameter);
};

// What a training step is made of. Nodes are in the order in which they run.
struct Program {
  std::vector<NodeRef> nodes;       // computed ones
  std::vector<NodeRef> parameters;  // to be updated, in this order
  Rule::Kind rule = Rule::sgd;      // by which they are
  NodeRef loss;                     // one of the nodes; null: no backward pass
  std::unordered_map<const Node*, NodeRef>
      feeds;             // inputs that are computed, or held elsewhere, in this program
  bool segment = false;  // of a longer list: an input may be an object outside the engine, which has a value
};

// A slot for what the update of a parameter reads beside it and its gradient.
struct PartSlot {
  std::int32_t slot = -1;
  std::int32_t update = -1;  // of which parameter
  Part part = Part::first;
};

struct Traced {
  Trace trace;
  std::vector<NodeRef> leaves;  // by slot: of the program; null: a constant, or one of the following
  std::vector<PartSlot> parts;
  std::vector<std::int32_t> values, grads;  // of the program's nodes; -1: no gradient reached it
  std::vector<std::int32_t> parameter_values, parameter_grads;
  std::vector<std::int32_t> arrived;  // of a segment: slots of gradients that are there before it; -1: none
};

// Records Forward, and with a loss Backward and the update. The program's nodes are left as they are. Throws
// what `infer` throws, and a graph error where a leaf has no value or belongs to an object outside the
// engine. With `places`, the steps say where their nodes were made, for people who read plans.
Traced trace_program(const Program& program, bool places = false);

// Records Backward alone, through nodes whose values are there: they are leaves. `arrived` says of the
// program's nodes, and then of its parameters, which gradients are there already; what the walk adds to them
// are the gradients that come out. Parameters stand for whatever the nodes read that collects gradients.
Traced trace_backward(const Program& program, const std::vector<std::uint8_t>& arrived);

}  // namespace edfcore
