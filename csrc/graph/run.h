// Running one node: the only way any op is ever executed, whichever face or pass asked for it.
#pragma once

#include <span>
#include <string>

#include "core/small.h"
#include "graph/node.h"

namespace edfcore {

// What a node runs when its inputs are as they are now: its own op on its own inputs, or the op that it fuses
// into on its producer's inputs.
struct Resolution {
  const Op* op = nullptr;
  const Fusion* fusion = nullptr;  // null: nothing was fused
  Small<const Edge*> inputs;
};
Resolution resolve(const Node& node);

// The version of an input's memory now, and whether all are what they were when the node ran.
std::uint32_t memory_version(const Edge& edge);
bool inputs_unchanged(const Node& node);

// True when the memory that holds a value can take the next one: nobody else looks at it.
bool reusable(const Cell& cell, const Spec& spec, Device device);
// Memory for a value: what the cell has, unless somebody holds that.
void make_room(Cell& cell, const Spec& spec, Device device);

// Infers, allocates, launches. Throws what `infer` throws and, on the CPU, what the data show, each with the
// place where the node was made; a value that the data spoilt may then have replaced the one before.
void run(Node& node);

// Runs nodes of one op, all on one device and none reading what another one makes: at once, where the device
// can.
void run_together(const Op& op, std::span<const NodeRef> nodes);

const Op& op_of(const Status& status);

// The message of a status, without the place.
std::string status_text(const Op& op, const Status& status);

// What `run` would use for a node whose value was set by hand: fills in `ran` and `resolved`, leaves the
// value alone.
void infer_only(Node& node);

// What `run` would make, without values: from the specs of the inputs alone, fills in `ran`, `resolved` and
// the specs of the outputs. Returns what was resolved.
Resolution infer_shapes(Node& node);

// Raises the data error that kernels on this device have met since the last call, if any. Synchronises.
void check_status(Device device);
// What kernels on this device have met since the last call, and how many errors devices have told of, ever.
Status take_status(Device device);
std::uint64_t data_errors();

}  // namespace edfcore
