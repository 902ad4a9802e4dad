// Minibatch after minibatch by plans, which are found again the next time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "graph/cache.h"

namespace edfcore {

// An input and the examples that it is fed with, along the first axis.
struct Feed {
  NodeRef input;
  Tensor examples;
};

// What is to be run: for every `batch_size` of the rows, Forward, Backward and the update.
struct Replay {
  std::vector<NodeRef> nodes, parameters;
  NodeRef loss;
  std::vector<Feed> feeds;
  Tensor rows;  // (n,), which examples to take; on the CPU
  std::int64_t batch_size = 1;
  Rule rule;
  Poll poll = nullptr;  // now and then between minibatches
  Device device;        // of the nodes
};

// The plan for minibatches of one size, and how it is bound to any program that looks like its own.
struct Batches {
  Batches(Plan plan) : runner(std::move(plan)) {}

  Runner runner;
  struct Bound {
    std::int32_t slot = -1;
    std::size_t source = 0;  // among the leaves, the parameters and the feeds, in this order
  };
  std::vector<Bound> bound;
  std::vector<std::pair<std::int32_t, NodeRef>> own;  // of a plan that is not kept: leaves of no listing
  std::vector<PartSlot> parts;
  std::int32_t rows = -1, loss = -1;  // slots
  Spec losses;
  std::int64_t together = 1;      // on a GPU: so many minibatches at once, at most
  Tensor rows_here, losses_here;  // of those, in the same memory each time, so that they can be repeated
  std::vector<std::uint64_t> key;
  std::uint64_t hash = 0, last_used = 0;
};

class ReplayCache {
 public:
  static constexpr std::size_t most = 64;

  // The loss of every example, or of each minibatch where it is one number. What is wrong with a minibatch is
  // thrown when those before it have been learnt from.
  Tensor run(const Replay& replay);
  void clear() { kept_.clear(); }
  PlanStats stats;  // of batches

 private:
  class Epoch;
  std::shared_ptr<Batches> find(const Replay& replay, const Listing& listing, bool listed, std::int64_t size);

  std::vector<std::shared_ptr<Batches>> kept_;
  std::uint64_t clock_ = 0;
  RuleNumbers numbers_;
};

}  // namespace edfcore
