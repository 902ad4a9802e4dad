// A plan: a trace pruned, put in order, fused into groups, and laid out in one arena. Pure functions of the
// trace, so that planning can be tested with no device.
#pragma once

#include <string>
#include <vector>

#include "graph/trace.h"

namespace edfcore {

// Steps [first, last). Those of a blocked group go over their elements together, block by block, so that what
// they hand to each other stays in the cache; on a GPU, in registers. In a headed group, all but the first
// do, over whatever parts of its output the first one has completed. A joint group is updates that the op's
// kernel for many takes at once. In one that is ended, the kernel of the first of two steps, a
// product, does the second one, too.
struct Group {
  std::int32_t first = 0, last = 0;
  bool blocked = false, headed = false, joint = false, ended = false;

  // The first step whose outputs need no memory where the group alone reads them; `last` where all do.
  std::int32_t blocks_from() const { return blocked || ended ? first : headed ? first + 1 : last; }
  // Behind the last step that is given scratch.
  std::int32_t scratch_until() const { return ended ? first + 1 : blocks_from(); }
};

inline const Spec& spec_of(const Trace& trace, std::int32_t value) {
  return trace.values[static_cast<std::size_t>(value)].spec;
}
Small<Spec> specs_of(const Trace& trace, const Small<std::int32_t>& values);

inline constexpr std::int64_t block_elements = 4096;

// Where a value lives.
struct Place {
  enum Kind : std::uint8_t {
    slot,    // outside, in memory number `offset` of those that are bound for the run
    arena,   // at `offset` of the arena
    block,   // never as a whole: block buffer number `offset` of its group
    nowhere  // nobody reads it, or nobody makes it
  };
  Kind kind = nowhere;
  std::int64_t offset = 0;
};

struct Plan {
  Plan() = default;
  Plan(Plan&&) = default;
  Plan& operator=(Plan&&) = default;

  Trace trace;
  std::vector<Group> groups;
  std::vector<Place> places;          // by value
  std::vector<std::int64_t> scratch;  // by step: offset in the arena, or -1
  std::vector<bool> views;            // by step: the output is the input's memory, and nothing runs
  std::int64_t arena_bytes = 0;
  std::int64_t separate_bytes = 0;  // what the values would take without sharing memory

  std::int64_t flops() const;
  std::int64_t bytes_moved() const;  // read and written by the groups, each value once
  std::string describe() const;      // a table for people
};

// 12,345: a number for people.
std::string grouped(std::int64_t n);

// A step whose outputs and inputs are the same elements, one by one.
bool is_elementwise(const Trace& trace, const TraceStep& step);

// Lets a step that does not read an input take another input of that dtype and shape in its place, or a value
// that nobody makes: then nothing need be kept for it.
void drop_unread(Trace& trace);

// Lets whoever reads a conversion to the dtype that its input has already read that input; unless `whole`,
// not where somebody may write it between phases.
void drop_copies(Trace& trace, bool whole = true);

// Leaves out the steps that make of known numbers others that can be known before anything runs: the plan
// holds them, or fills them in where they are many.
void fold(Trace& trace);

// Leaves out the steps whose outputs nobody sees, but for those of the forward pass that find errors
// in the data.
void prune(Trace& trace);

// A step and the one that takes its gradient back become one step, where the steps' ops can be one and what
// comes in for the way back does not hang on what the step makes. For a plan that runs from end to end:
// steps of the way forward that read what the one step makes come behind it.
void join(Trace& trace);

// A sum with what steps made for it alone becomes one step with those, where the steps' op can do both. So
// does a parameter's descent, if the plan runs from end to end.
void accumulate(Trace& trace, bool whole = true);

// Does once what several steps would do to the same input, each for itself; unless `whole`, in each phase
// anew.
void share(Trace& trace, bool whole = true);

// Moves elementwise steps behind a step that tells which parts of its output are complete, where they read
// that output, and whatever else they read is there already; on a GPU, one behind a product that can end with
// it, and sums of columns behind a product whose kernel reads these.
void adjoin(Trace& trace);

// Sorts the steps by these keys; those of equal ones stay in order.
void reorder(Trace& trace, const std::vector<std::size_t>& keys);

// Moves every update in place to the first moment at which nothing needs the old value any more and all data
// have been looked at for errors; no further forward than behind the first `least` steps.
void hasten_updates(Trace& trace, std::size_t least = 0);

// On a device that does several updates at once, moves those of small parameters to the end, side by side,
// where nothing needs the new value.
void gather_updates(Trace& trace);

// Below so many elements, a launch costs more than what an update moves (some megabytes); the gradients of
// larger parameters give their memory back at once.
inline constexpr std::int64_t gathered_elements = std::int64_t{1} << 18;

// Neighbouring elementwise steps over the same elements form a group, with the step before them if that tells
// which parts of such an output are complete; so do updates that were gathered, of one dtype, and a product
// on a GPU with the step that it can end with, or the sums that it can make beside; any other step is one by
// itself. Unless `whole`, no group crosses from one phase into the next.
std::vector<Group> fuse(const Trace& trace, bool whole = true);

// Where a run can stop, and go on later: nowhere, so that phases may mix; behind the way forward; or behind
// every phase, so that gradients can be had before the update.
enum class Stops : std::uint8_t { nowhere, forward, phases };

struct CompileOptions {
  bool blocks = true;   // fuse
  bool inplace = true;  // an output may take the memory of an input that dies there
  Stops stops = Stops::nowhere;
};

// Gives every value a place, so that values which are never alive together share memory.
void place(Plan& plan, bool inplace = true);

Plan compile(Trace trace, const CompileOptions& options = {});

}  // namespace edfcore
