// A segment of a list that others have a say in: engine nodes between two moments at which somebody else may
// look at, or change, whatever there is. It runs by plans of its own, one for Forward and one for Backward;
// what outlives such a run is in the nodes themselves.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "graph/execute.h"
#include "graph/listing.h"

namespace edfcore {

struct Plans;

// A node or a leaf of a listing.
struct Member {
  std::int32_t position = 0;
  bool leaf = false;
  friend bool operator==(const Member&, const Member&) = default;
};

// Memory of a member's value or gradient that a run finds there, or leaves there.
struct Tie {
  std::int32_t slot = 0;
  Member member;
  Spec spec;
};

struct SegmentPlan {
  explicit SegmentPlan(Plan plan) : runner(std::move(plan)) {}

  Runner runner;
  std::vector<Tie> values;            // that are read
  std::vector<Tie> grads;             // that are read, as they have arrived
  std::vector<Tie> made;              // values by Forward, gradients by Backward
  std::vector<Member> stay, zero;     // gradients of the segment's nodes: as they have arrived; none arrives
  std::vector<std::uint8_t> arrived;  // by node of the segment, then by what is outside: has a gradient
  std::uint64_t stamp = 0;            // of what was known when it was made
};

// What a node's run leaves beside its value.
struct Inferred {
  Spec spec;
  const Op* ran = nullptr;
  Attrs resolved;
};

// Of a segment that reads values of these dtypes and shapes.
struct SegmentPlans {
  std::vector<std::uint64_t> specs;
  std::int64_t seen = 0;  // how often it ran node by node
  bool straight = false;  // plans cannot run it
  std::vector<Inferred> nodes;
  std::unique_ptr<SegmentPlan> forward;
  std::vector<std::unique_ptr<SegmentPlan>> backward;  // the last one last
};

struct Segment {
  std::int32_t first = 0, last = 0;                     // of the list's nodes
  std::vector<Member> outside;                          // what they read beside each other
  std::vector<std::unique_ptr<SegmentPlans>> variants;  // the last one last
};

// Fills in the plans' segments, which begin at these nodes, and what they need of each other.
void divide(const Listing& listing, std::span<const std::int32_t> begins, Plans& plans);

Node& node_at(const Listing& listing, Member member);
std::span<const NodeRef> nodes_of(const Listing& listing, const Segment& segment);

// That of what the segment reads now; new when there is none.
SegmentPlans& variant_of(const Listing& listing, Segment& segment);

// Plans that keep what has been looked at, and what is needed. Throw what `infer` throws.
SegmentPlan& forward_plan(const Listing& listing, Plans& plans, const Segment& segment, SegmentPlans& known,
                          std::int64_t& compiled);
SegmentPlan& backward_plan(const Listing& listing, Plans& plans, const Segment& segment, SegmentPlans& known,
                           std::vector<std::uint8_t> arrived, std::int64_t& compiled);

// Which gradients have arrived. False when there is something about the nodes that plans know nothing of.
bool list_arrived(const Listing& listing, const Segment& segment, std::vector<std::uint8_t>& arrived);

// Run a plan. When one throws, Forward leaves no values of the segment, and Backward all gradients as they
// were.
void run_forward(const Listing& listing, const Segment& segment, const SegmentPlans& known, SegmentPlan& plan,
                 Poll poll);
void run_backward(const Listing& listing, const Segment& segment, SegmentPlan& plan, Poll poll);

// True when the values of these nodes of the segment are what Forward would make them now.
bool as_computed(const Listing& listing, const Segment& segment, std::span<const NodeRef> suspects);

// The gradients that a plan of Backward reads, as they have arrived.
std::vector<NodeRef> grads_read(const Listing& listing, const SegmentPlan& plan);
// Runs a plan once more with these, for the gradients of the segment's nodes that an earlier one did without.
void run_backward_again(const Listing& listing, const Segment& segment, SegmentPlan& plan,
                        std::span<const NodeRef> grads);

}  // namespace edfcore
