// The runs of a plan that a device has recorded, of several at a time. They are plain at first; when they
// come again, bound to the same memory, they are recorded, and from then on repeated as one. The numbers of
// updates are in memory, too.
#pragma once

#include <cstdint>
#include <vector>

#include "device/backend.h"
#include "ops/float32_matmul.h"

namespace edfcore {

class Recordings {
 public:
  // All that the launches depend on.
  struct Key {
    const void *arena = nullptr, *status = nullptr, *numbers = nullptr, *number = nullptr;
    std::int64_t runs = 1;
    std::size_t begin = 0, end = 0;  // groups
    std::vector<void*> bound;
    Float32Matmul products = float32_matmul();
    friend bool operator==(const Key&, const Key&) = default;
  };

  explicit Recordings(Backend& device) : device_(&device) {}
  ~Recordings();
  Recordings(const Recordings&) = delete;
  Recordings& operator=(const Recordings&) = delete;

  // True when what issue(context) would run has been run by repeating it.
  bool repeat(Key key, void (*issue)(void*), void* context);

  static std::int64_t repeated();  // how often, of all plans

 private:
  static constexpr std::size_t most = 8;  // a loop's inputs and results take turns in a few places

  struct Known {
    Key key;
    void* recorded;  // null: it was seen once
  };

  Backend* device_;
  std::vector<Known> known_;  // the last one seen last
  bool refused_ = false;      // by the device
};

}  // namespace edfcore
