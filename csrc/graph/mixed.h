// Forward and Backward of a list that others have a say in: whoever walks over it hands over one segment
// after the other, which runs at once. Plans run the segments when they have been seen often enough, and when
// nothing happens that plans know nothing of; otherwise every node runs by itself.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/cache.h"

namespace edfcore {

class Session;

// One program at a time, in one thread at a time; callers see to that.
class Mixed {
 public:
  explicit Mixed(Session& session) : session_(session) {}

  // A walk over the list: its beginning, the segments in its order or in the reverse order, with their nodes
  // likewise, and its end, which comes whatever happened. The nodes are the engine's own, computed and
  // recorded; `begins` are those that begin a segment. A null loss is somebody else's.
  void begin_forward(std::span<Node* const> nodes, std::span<const std::int32_t> begins);
  void begin_backward(std::span<Node* const> nodes, std::span<const std::int32_t> begins, Node* loss);
  void forward(std::span<const NodeRef> nodes);
  void backward(std::span<const NodeRef> nodes);
  void end(bool complete);

  bool walking() const { return depth_ > 0; }
  bool idle() const { return !active_.load(std::memory_order_relaxed); }
  bool has(const Node& node) const;
  // The plans of these segments of a list, for people: empty where they run node by node yet, none where
  // another list was run.
  std::vector<std::string> describe(std::span<Node* const> nodes, std::span<const std::int32_t> begins) const;

  // What Session (graph/session.h) says of them.
  void look_at_value(Node& node);
  void look_at_grad(Node& node);
  void keep(Node& node);
  void change();  // of a leaf, before it is done
  void interfere();
  void settle();
  void leave();

 private:
  enum class Walk : std::uint8_t { none, forward, backward };

  bool same(std::span<Node* const> nodes, std::span<const std::int32_t> begins) const;
  void adopt(std::span<const std::int32_t> begins);
  void drop();
  void go_straight();
  [[noreturn]] void lost(Node& node, Look look);
  bool run_again(const Node& node);
  SegmentPlan* plan_back(std::size_t s);
  void ran_by_plan(std::span<const NodeRef> nodes);

  Session& session_;
  std::atomic<bool> active_{false};  // there are plans_
  Listing listing_;
  std::vector<std::int32_t> begins_;
  std::shared_ptr<Plans> plans_;             // of the listing
  std::vector<std::shared_ptr<Plans>> all_;  // of the same nodes, for whatever shapes
  int depth_ = 0;                            // walks under way, one within another
  Walk walk_ = Walk::none;                   // of this list
  std::size_t next_ = 0;                     // segments in front of the walk
  std::size_t ran_ = 0;                      // segments that this Forward has run
  std::uint64_t looked_ = 0;                 // Plans::looked when it began
  bool straight_ = false;     // the rest of this step goes node by node, and all values are there
  bool changed_ = false;      // a leaf may not be what Forward read
  bool walked_back_ = false;  // after this Forward
  struct Progress {
    SegmentPlans* known = nullptr;
    bool planned = false;  // Forward was run by a plan, and values may be missing
    // Of a plan of Backward that was run:
    std::vector<std::uint8_t> arrived;
    std::vector<NodeRef> grads;  // that it read
    std::uint64_t when = 0;      // 0: none was
  };
  std::vector<Progress> progress_;                       // by segment
  std::uint64_t clock_ = 0;                              // plans of Backward that were run
  std::vector<std::uint64_t> seen_nodes_, seen_leaves_;  // when their values were handed out, by position
};

}  // namespace edfcore
