// Running a plan again and again: places and arguments are settled once, when the runner is made, and kernels
// when the instruction set is another.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "device/backend.h"
#include "graph/plan.h"
#include "graph/recordings.h"
#include "ops/widened.h"

namespace edfcore {

// Called between steps of a plan, as long as stopping there leaves the parameters alone; may throw.
using Poll = void (*)();
inline constexpr double poll_after = 5e6;  // operations and bytes, about a millisecond of work

// Several runs of a plan, one after another. Slots are bound to memory that goes on by so many bytes from run
// to run; so does, on a GPU, the number that a kernel is to note in Status::run.
struct Runs {
  struct Moving {
    std::int32_t slot;
    void* data;
    std::size_t stride;
  };
  std::int64_t count = 1;
  std::vector<Moving> moving;
  const std::int64_t* number = nullptr;
  std::size_t number_stride = 0;
};

class Runner {
 public:
  explicit Runner(Plan plan);  // throws a memory error

  // The memory behind a slot, of the slot's dtype and shape, until it is bound to another. What was written
  // into a leaf's mirror must be on the device already (Cell::on_device).
  void bind(std::int32_t slot, void* data) {
    if (bound_[static_cast<std::size_t>(slot)] != data) rebind(slot, data);
  }
  void* bound(std::int32_t slot) const { return bound_[static_cast<std::size_t>(slot)]; }
  // Binds the leaves among the slots to the memory that they have now.
  void bind(std::span<const NodeRef> leaves);
  void bind(std::span<const PartSlot> parts, const Updating& updating);

  // Runs the steps of these phases. What an earlier phase left for a later one stays until another plan runs
  // on this device. On the CPU, throws the data error that a step met, with the place where its node was
  // made; updates that come after it have left the parameters alone.
  // `nodes` are those of the program that runs, which need not be the one that the plan was made of;
  // `updates` the scalars of each parameter's update, run by run, where the plan runs to its end.
  void run(std::span<const NodeRef> nodes, std::span<const Scalars> updates, Phase first = Phase::forward,
           Phase last = Phase::update, Poll poll = nullptr, const Runs& runs = {});
  // Throws the data error that a step has met.
  [[noreturn]] void raise(const Status& met, std::span<const NodeRef> nodes) const;

  const Plan& plan() const { return plan_; }
  double work() const {
    return work_;
  }  // of all groups, in operations and bytes, and what it takes to begin one

 private:
  struct Step {
    Launcher kernel;
    Launch launch;
    std::size_t first_view;  // its inputs and then its outputs, in views_
  };

  void rebind(std::int32_t slot, void* data);
  void move_to(void* arena);
  void choose_kernels(Isa isa);
  void settle_groups();
  double about(std::size_t s) const;
  bool repeat(std::size_t begin, std::size_t end, const Runs& runs);
  void move_on(const Runs& runs, std::int64_t run);
  std::span<const char* const> names_of(std::size_t begin, std::size_t end) const;  // of the groups' ops
  void run_group(const Group& group, std::span<const NodeRef> nodes);
  void run_joint(const Group& group, std::span<const NodeRef> nodes);
  void give_numbers(std::span<const Scalars> updates, std::int64_t runs);
  void run_blocked(const Group& group);
  void run_headed(const Group& group);
  void run_chain(const Group& group);
  void run_ended(const Group& group, std::span<const NodeRef> nodes);
  struct Stretch;
  void run_watched(std::size_t s, std::span<const NodeRef> nodes) {
    run_watched(s, steps_[s].kernel, steps_[s].launch, nodes);
  }
  // What another step's kernel has done, too.
  void look_at(std::size_t s, std::span<const NodeRef> nodes) {
    run_watched(s, Launcher{}, steps_[s].launch, nodes);
  }
  void run_watched(std::size_t s, const Launcher& kernel, const Launch& launch,
                   std::span<const NodeRef> nodes);

  Plan plan_;
  Backend* device_;
  void* arena_ = nullptr;
  Isa isa_;
  std::vector<Step> steps_;
  std::vector<const char*> names_;  // of the ops as written, by step
  std::vector<View> views_;         // of every step: inputs, then outputs
  std::vector<std::int32_t> value_of_view_;
  std::vector<void*> bound_;                       // by slot
  std::vector<std::vector<std::size_t>> at_slot_;  // which views are there
  std::vector<std::size_t> updates_;               // steps that update a parameter
  std::vector<std::size_t> polls_;                 // groups before which there may be a look at signals
  std::size_t phase_end_[3] = {};                  // in groups
  double work_ = 0;
  std::unique_ptr<Recordings> recordings_;  // null on the CPU
  Tensor numbers_;                          // of the updates, on a GPU: two for each, run by run
  std::size_t numbers_stride_ = 0;          // of a run
  std::vector<Scalars> given_;              // what they are
};

// Gives the memory that plans on this device share back, when no runner is in the middle of one.
void release_arena(Device device);

}  // namespace edfcore
