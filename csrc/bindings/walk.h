// A list that Python has a say in: what is in it, what a walk over it copies between a device and NumPy, and
// how it is shown to people.
#pragma once

#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "device/backend.h"

namespace edfcore {

inline bool has_host_input(const Node& node) {
  for (const Edge& edge : node.inputs)
    if (edge.node->role == Role::host) return true;
  return false;
}

// Where the first of them lives, or what is made now would.
inline Device device_of(const std::vector<Node*>& nodes) {
  return nodes.empty() ? current_device() : nodes[0]->device;
}

// What a list holds before anybody walks over it.
struct Items {
  std::vector<Node*> nodes;          // ours
  std::vector<std::int32_t> begins;  // those before which Python has its turn, and the first
  bool all_ours = true;              // Python has no say in any of them
  bool plain = true;                 // what is not ours has no node of ours behind it

  explicit Items(const py::list& items) {
    nodes.reserve(items.size());
    bool begin = true;
    for (py::handle item : items) {
      Node* const node = own_node(item);
      if (!node) {
        plain &= !PyObject_TypeCheck(item.ptr(), node_type);
        all_ours = false;
        begin = true;
        continue;
      }
      const bool reads_host = has_host_input(*node);
      all_ours &= !reads_host;
      if (begin || reads_host) begins.push_back(static_cast<std::int32_t>(nodes.size()));
      nodes.push_back(node);
      begin = false;
    }
    if (!plain) nodes.clear();
  }
};

// Counts what a walk over a list copies, on a device that is not the CPU; of two walks at once, the first.
class CopyMeter {
 public:
  enum Walk : std::uint8_t { forward, backward };

  CopyMeter(const py::list& items, const Items& known, Walk walk);
  ~CopyMeter();
  CopyMeter(const CopyMeter&) = delete;

  // Whose the copies are since the last call: the engine's own, which bring back what was handed out and may
  // have been written; or those of the item at this place of the list, be it a node in NumPy or one that
  // reads such a node.
  void of_segments();
  void of_item(std::size_t i);

 private:
  Copied since();

  const Backend* device_ = nullptr;  // null: nothing is counted
  Copied before_;
  Walk walk_;
};

// A graph with nodes in NumPy, as `edfcore.plan` shows it.
struct MixedPlan {
  std::size_t segments = 0, host_calls = 0;
  Copied copied;  // by the last Forward and the last Backward of this list
  std::string text;
};
MixedPlan describe_mixed(const py::list& items);

}  // namespace edfcore
