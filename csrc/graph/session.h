// What Forward, Backward and SGD have asked for, and what of it has been done: the three calls may put their
// work off, so that a step runs as one plan, and whoever looks at a node has it done first.
#pragma once

#include <atomic>
#include <memory>
#include <span>

#include "graph/cache.h"
#include "graph/grad.h"
#include "graph/mixed.h"
#include "graph/replay.h"

namespace edfcore {

// One program at a time, in one thread at a time; callers see to that.
class Session {
 public:
  // Runs after `straight_runs` of a list go straight, which is to run every node by itself and keep all.
  std::int64_t straight_runs = 2;
  bool keep_all = false;  // everything goes straight
  Poll poll = nullptr;    // looks at signals while a plan runs
  PlanCache cache;
  ReplayCache replays;
  Mixed mixed{*this};  // of lists that others have a say in; what it runs is never put off

  // The three calls. All nodes are the engine's own, computed and recorded. They check at once and throw what
  // is wrong with shapes, dtypes and the order of calls; what only the data show may be thrown later.
  void forward(std::span<Node* const> nodes);
  void backward(std::span<Node* const> nodes, std::span<Node* const> parameters, Node& loss);
  void update(std::span<Node* const> parameters, const Rule& rule);
  // Updates them with the gradients that are there, whoever asks for it. Throws a graph error where a plan
  // has done without one.
  void update_now(std::span<Node* const> parameters, const Rule& rule);

  // Before a value or a gradient is read: does what it takes for it to be there. Throws a graph error when a
  // plan did without it and the leaves have changed since; from then on it is kept.
  void look_at_value(Node& node);
  void look_at_grad(Node& node);
  void keep(Node& node);
  // Shape and dtype of its value, which are known before the value is; null where there is none.
  const Spec* spec(Node& node) const;

  // Before a leaf is given another value.
  void change(const Node& leaf);
  // Before something else happens to a node, which no plan can know of.
  void interfere(const Node& node);

  // Does what has been asked for.
  void finish();
  // The same before the nodes are let go of: a Forward alone is likely to be looked at later.
  void finish_as_shown();
  // The same, so that all values are there that were not lost already.
  void settle();
  // Does nothing more of a step that a device has found an error in.
  void abandon();
  // Lets go of the nodes, as they are, after finishing.
  void leave();
  // The same when a list of `mixed` has its turn; with `goes_on`, in the middle of a step.
  void step_aside(bool goes_on);

  bool pending() const { return asked_ > done_; }  // something is put off
  bool idle() const { return !active_.load(std::memory_order_relaxed) && mixed.idle(); }

 private:
  using Read = std::vector<std::pair<NodeRef, Tensor>>;  // leaves, and what they held

  bool target_of(std::span<Node* const> parameters, const Node& loss, Target& target) const;
  std::vector<Node*> unlisted(std::span<Node* const> parameters) const;
  bool same_target(std::span<Node* const> parameters) const;
  bool aim(Target target);

  // session_run.cpp
  void elide();
  void advance(int to);
  template <class Action>
  void guarded(const Action& action);
  Compiled& compiled(int to);
  void run(Compiled& plan, int to);
  void bind_values(Compiled& plan);
  void bind_grads(Compiled& plan, bool made);
  void fill();
  void fill_values();
  void detach(Node& node);
  void update_straight();
  void expect_write(Node& leaf);
  template <class Action>
  void with_what_was_read(Read& read, const Action& action);
  void forget();
  void drop();
  bool handed_out() const;
  bool grown() const;
  std::vector<Node*> parameters_of(const Target& target) const;

  std::atomic<bool> active_{false};  // there are plans_
  Listing listing_;
  std::shared_ptr<Plans> plans_;  // of the listing; null: nothing is known of what ran last
  Compiled* ran_ = nullptr;       // whose earlier phases were run
  int asked_ = 0, done_ = 0;      // how many phases
  bool straight_ = true;          // what was done left all values
  bool written_ = false;          // what Backward read may have been written since
  bool changed_ = false;       // a leaf may not be what Forward read, and what it read is not known any more
  Read read_, read_back_;      // by Forward, and by Backward, of leaves that may have been written since
  std::uint64_t adopted_ = 0;  // Plans::looked, plus one, when values of these nodes were last let go
  std::vector<Tensor>
      detached_;               // what the rest of the step reads in the place of values that were handed out
  std::vector<Tensor> spare_;  // such memory of earlier steps
  Rule rule_;                  // of the update that was asked for
};

Session& session();

}  // namespace edfcore
