// A trace: the steps that a recorded program would run, with dtypes and shapes and no data. What is compiled.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "core/small.h"
#include "graph/node.h"

namespace edfcore {

struct TraceValue {
  Spec spec;
  NodeRef leaf;       // the leaf of the program that holds it; null: a step makes it
  bool kept = false;  // looked at after the run
};

struct TraceStep {
  const Op* op = nullptr;
  Attrs attrs;
  Small<std::int32_t> in, out;  // values
  bool scalar_is_rate = false;  // attrs.scalar is the learning rate, which is given when the plan runs
  const Op* written = nullptr;  // what the program says, where it fused into `op`; what messages speak of
  std::string place;            // " Node made at train.py:14."
};

struct Trace {
  Device device;
  std::vector<TraceValue> values;
  std::vector<TraceStep> steps;
};

// What a training step is made of. Nodes are in the order in which they run.
struct Program {
  std::vector<NodeRef> nodes;       // computed ones
  std::vector<NodeRef> parameters;  // to be updated, in this order
  NodeRef loss;                     // one of the nodes; null: no backward pass
  std::unordered_map<const Node*, NodeRef>
      feeds;  // inputs that are computed, or held elsewhere, in this program
};

struct Traced {
  Trace trace;
  std::unordered_map<const Node*, std::int32_t> value_of;  // of the program's nodes and leaves
};

// Records Forward, and with a loss Backward and the update. The program's nodes are left as they are. Throws
// what `infer` throws, and a graph error where a leaf has no value or belongs to an object outside the
// engine.
Traced trace_program(const Program& program);

}  // namespace edfcore
