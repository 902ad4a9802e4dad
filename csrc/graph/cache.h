// Plans that programs find again: kept under what their list of nodes looks like, the least recently used
// ones dropped.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "graph/execute.h"
#include "graph/listing.h"
#include "graph/segment.h"

namespace edfcore {

// A value or a gradient that a plan leaves behind, in memory of the node's own.
struct Kept {
  std::int32_t position = 0;  // of the node, or of the leaf whose gradient it is
  std::int32_t slot = -1;     // -1: a gradient that is zero
  Spec spec;
  bool leaf = false;
};

// A plan, and how the nodes of any list that looks like its own are bound to it.
struct Compiled {
  Compiled(Plan plan) : runner(std::move(plan)) {}

  Runner runner;
  std::vector<std::int32_t> leaf_at;  // by slot: position of the leaf, or -1
  std::vector<PartSlot> parts;
  RuleNumbers numbers;
  std::vector<Kept> values, grads;
  std::uint64_t looked = 0;  // Plans::looked when it was made
};

// What a step trains: its loss and the parameters to be updated, as positions in the listing.
struct Target {
  std::int32_t loss = -1;  // -1: nothing, a Forward alone
  std::vector<std::int32_t> parameters;
  friend bool operator==(const Target&, const Target&) = default;
};

// A whole step's plans.
struct Trained {
  Target target;
  std::unique_ptr<Compiled> cut;  // can be run phase by phase, up to SGD
  // By the kind of rule: from end to end, and in two halves, of which the first is the way forward.
  std::array<std::unique_ptr<Compiled>, rule_kinds> whole = {}, halves = {};
};

enum Look : std::uint8_t { looked_at_value = 1, looked_at_grad = 2 };

// All that is known of the lists that look alike.
struct Plans {
  std::uint64_t id = 0;
  std::vector<std::uint64_t> structure, shapes;
  std::int64_t runs = 0;                    // that went straight, as the first ones do
  bool lost = false;                        // somebody looked at what was not there any more
  bool straight = false;                    // plans do not fit what the program does with this list
  std::vector<Spec> specs;                  // of the nodes' values
  std::vector<std::uint8_t> nodes, leaves;  // Look: what somebody looked at, by position, ever
  std::uint64_t looked = 0;                 // grows with every new look
  std::unique_ptr<Compiled> forward;        // Forward alone
  std::vector<Trained> trained;             // the last one last
  std::vector<Segment> segments;            // of a list that others have a say in
  std::vector<std::uint8_t> needed;         // by node: another segment reads its value, or Backward does
  std::uint64_t needs = 0;                  // grows with every one
  std::uint64_t last_used = 0;

  // True when this look is the first of its kind.
  bool look(bool leaf, std::int32_t position, Look kind);
  void look_at_all(Look kind);
};

struct PlanStats {
  std::int64_t hits = 0;      // lists that were found again
  std::int64_t misses = 0;    // and that were not
  std::int64_t compiled = 0;  // plans made
  std::int64_t segments = 0;  // runs of a plan for a part of a list
};

class PlanCache {
 public:
  static constexpr std::size_t most = 64;

  // Those of a list that looks like this one; made when there are none.
  std::shared_ptr<Plans> find(const Listing& listing);
  std::shared_ptr<Plans> by_id(std::uint64_t id) const;  // null when they were dropped
  // A plan did without this, and it cannot be computed any more: from now on it is kept.
  [[noreturn]] void lost(Node& node, Look look) const;
  void clear() { entries_.clear(); }
  PlanStats stats;

 private:
  std::unordered_multimap<std::uint64_t, std::shared_ptr<Plans>> entries_;  // by hash
  std::uint64_t clock_ = 0;
};

// Makes a plan of the listing that keeps what has been looked at.
std::unique_ptr<Compiled> compile(const Listing& listing, Plans& plans, const Target& target, Rule::Kind rule,
                                  Stops stops);

}  // namespace edfcore
