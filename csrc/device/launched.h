// Which ops a device has been given since it was last waited for: kernels run later than they are launched,
// so an error that is met in the end may be any one's of these.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace edfcore {

class LaunchedOps {
 public:
  // Names that live as long as the program. Threads may call this at the same time; a message is all that
  // they could spoil.
  void add(std::span<const char* const> ops) noexcept {
    for (const char* op : ops.last(std::min(ops.size(), last_.size())))
      last_[count_.fetch_add(1, std::memory_order_relaxed) % last_.size()].store(op,
                                                                                 std::memory_order_relaxed);
  }
  void clear() noexcept { count_.store(0, std::memory_order_relaxed); }

  // In a message: before it, where one op alone can be meant, and after it, where there are several.
  std::string before() const {
    const std::vector<std::string> names = distinct();
    return names.size() == 1 ? "[" + names[0] + "] " : "";
  }
  std::string after() const {
    const std::vector<std::string> names = distinct();
    if (names.size() < 2) return "";
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    return ", by one of the ops that it was given since it was last waited for (" + list +
           "); where CUDA_LAUNCH_BLOCKING=1 is set, an error is seen at the op that made it";
  }

 private:
  std::vector<std::string> distinct() const {
    std::vector<std::string> names;
    const std::uint64_t count = count_.load(std::memory_order_relaxed);
    for (std::uint64_t i = count - std::min<std::uint64_t>(count, last_.size()); i < count; ++i) {
      const char* op = last_[i % last_.size()].load(std::memory_order_relaxed);
      if (op && std::find(names.begin(), names.end(), op) == names.end()) names.emplace_back(op);
    }
    return names;
  }

  std::array<std::atomic<const char*>, 64> last_{};
  std::atomic<std::uint64_t> count_ = 0;
};

}  // namespace edfcore
