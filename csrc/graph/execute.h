// Running a plan again and again: kernels, places and arguments are settled once, when the runner is made.
#pragma once

#include <vector>

#include "device/backend.h"
#include "graph/plan.h"

namespace edfcore {

class Runner {
 public:
  explicit Runner(Plan plan);  // allocates the arena; throws a memory error

  // Runs all steps. A leaf's memory is looked up here, so leaves may get other memory between runs, of the
  // same dtype and shape. On the CPU, throws the data error that a step met, with the place where its node
  // was made; updates that come after it have left the parameters alone. What was written into a leaf's
  // mirror must be on the device already (Cell::on_device): an upload between runs would undo updates.
  void run(double learning_rate);

  // Reads leaf `value` from this memory instead of from the leaf's own.
  void redirect(std::int32_t value, void* data);

  // A value that was kept, valid until the next run.
  Tensor value(std::int32_t value) const;
  const Plan& plan() const { return plan_; }

 private:
  struct Step {
    Kernel kernel;
    Launch launch;
    std::size_t first_view;  // its inputs and then its outputs, in views_
  };

  void bind_leaves();
  void run_blocked(const Group& group);
  void run_watched(std::size_t s);

  Plan plan_;
  Backend* device_;
  Tensor arena_;
  std::vector<Step> steps_;
  std::vector<View> views_;  // of every step: inputs, then outputs
  std::vector<std::int32_t> value_of_view_;
  std::vector<std::size_t> leaf_views_;  // in views_
  std::vector<void*> redirected_;        // by value; null: the leaf's own memory
};

}  // namespace edfcore
