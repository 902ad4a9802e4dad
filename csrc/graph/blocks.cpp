// Running the elementwise steps of a group block by block.
#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include "core/parallel.h"
#include "graph/execute.h"

namespace edfcore {
namespace {

constexpr std::size_t block_bytes =
    static_cast<std::size_t>(block_elements) * 8;  // of a buffer, for any dtype

// A thread's own buffers for what a blocked group hands from step to step.
class Blocks {
 public:
  ~Blocks() { ::operator delete(memory_, std::align_val_t{64}); }
  std::byte* buffers(std::size_t count) {
    if (count > count_) {
      ::operator delete(std::exchange(memory_, nullptr), std::align_val_t{64});
      count_ = 0;
      memory_ = ::operator new(count * block_bytes, std::align_val_t{64});
      count_ = count;
    }
    return static_cast<std::byte*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  std::size_t count_ = 0;
};

thread_local Blocks blocks;

}  // namespace

// Elementwise steps [first, last) of a group.
struct Runner::Stretch {
  const Runner* runner;
  std::size_t first, last, buffers = 0;
  std::size_t wide = 0;  // more buffers, for what a step computes in that runs widened

  Stretch(const Runner& r, const Group& group)
      : runner(&r),
        first(static_cast<std::size_t>(group.blocks_from())),
        last(static_cast<std::size_t>(group.last)) {
    const std::size_t end = last < r.steps_.size() ? r.steps_[last].first_view : r.views_.size();
    for (std::size_t i = r.steps_[first].first_view; i < end; ++i) {
      const Place& place = r.plan_.places[static_cast<std::size_t>(r.value_of_view_[i])];
      if (place.kind == Place::block) buffers = std::max(buffers, static_cast<std::size_t>(place.offset) + 1);
    }
    for (std::size_t s = first; s < last; ++s)
      if (const Step& step = r.steps_[s]; step.kernel.op)
        wide = std::max(wide, static_cast<std::size_t>(step.launch.n_in + step.launch.n_out));
  }

  std::int64_t size() const { return runner->views_[runner->steps_[first].first_view].size; }

  // Every block of the elements [begin, end) goes through all steps before the next one begins.
  void run(std::int64_t begin, std::int64_t end) const {
    std::byte* const memory = blocks.buffers(buffers + wide);
    for (; begin < end; begin += block_elements) {
      const std::int64_t length = std::min(block_elements, end - begin);
      for (std::size_t s = first; s < last; ++s) run(runner->steps_[s], begin, length, memory);
    }
  }

  void run(const Step& step, std::int64_t begin, std::int64_t length, std::byte* memory) const {
    const auto n_in = static_cast<std::size_t>(step.launch.n_in);
    Small<View> views;
    for (std::size_t i = 0; i < n_in + static_cast<std::size_t>(step.launch.n_out); ++i) {
      const std::size_t at = step.first_view + i;
      View view = runner->views_[at];
      const Place& place = runner->plan_.places[static_cast<std::size_t>(runner->value_of_view_[at])];
      view.data = place.kind == Place::block ? memory + static_cast<std::size_t>(place.offset) * block_bytes
                  : place.kind == Place::nowhere
                      ? nullptr
                      : static_cast<std::byte*>(view.data) + begin * dtype_size(view.dtype);
      view.dims = &length;
      view.rank = 1;
      view.size = length;
      views.push_back(view);
    }
    Launch launch = step.launch;
    launch.in = views.data();
    launch.out = views.data() + n_in;
    launch.scratch = memory + buffers * block_bytes;
    step.kernel(launch);
  }
};

void Runner::run_blocked(const Group& group) {
  Stretch stretch(*this, group);
  const auto task = [](void* p, std::int64_t chunk) {
    const Stretch& s = *static_cast<const Stretch*>(p);
    s.run(chunk * block_elements, std::min((chunk + 1) * block_elements, s.size()));
  };
  parallel_chunks((stretch.size() + block_elements - 1) / block_elements, task, &stretch);
}

void Runner::run_headed(const Group& group) {
  Stretch stretch(*this, group);
  const Tail tail{
      [](void* p, std::int64_t begin, std::int64_t end) { static_cast<const Stretch*>(p)->run(begin, end); },
      &stretch};
  const Step& head = steps_[static_cast<std::size_t>(group.first)];
  Launch launch = head.launch;
  launch.tail = &tail;
  head.kernel(launch);
}

}  // namespace edfcore
