// What nodes in NumPy cost in copies, counted while a list runs, and the table that shows it.
#include <algorithm>
#include <utility>

#include "bindings/walk.h"
#include "core/error.h"
#include "graph/session.h"

namespace edfcore {
namespace {

// The last walk of its kind. Items are compared by address alone.
struct Walked {
  std::vector<const PyObject*> items;
  std::vector<Copied> by_item;
  Copied segments;

  bool of(const py::list& list) const {
    return items.size() == list.size() &&
           std::equal(items.begin(), items.end(), list.begin(),
                      [](const PyObject* a, py::handle b) { return a == b.ptr(); });
  }
};

Walked& walked(CopyMeter::Walk walk) {
  static auto* const both = new Walked[2];  // outlives the interpreter
  return both[walk];
}

bool counting = false;  // read and written with the GIL

std::string shown(Copied copied) {
  std::string words;
  if (copied.to_host) words += text(grouped(copied.to_host), " bytes to the host");
  if (copied.to_device)
    words += text(words.empty() ? "" : ", ", grouped(copied.to_device), " bytes to the device");
  return words.empty() ? "no copies" : words;
}

std::string several(std::size_t count, const char* what) { return text(count, what, count == 1 ? "" : "s"); }

std::string indented(const std::string& lines) {
  std::string result;
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    result += "      " + lines.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return result;
}

}  // namespace

CopyMeter::CopyMeter(const py::list& items, const Items& known, Walk walk) : walk_(walk) {
  const Device device = device_of(known.nodes);
  if (device.type == DeviceType::cpu || counting) return;
  device_ = &backend(device);
  Walked& found = walked(walk);
  found.items.clear();
  for (py::handle item : items) found.items.push_back(item.ptr());
  found.by_item.assign(items.size(), {});
  found.segments = {};
  before_ = device_->copied();
  counting = true;
}

CopyMeter::~CopyMeter() {
  if (device_) counting = false;
}

Copied CopyMeter::since() {
  const Copied now = device_->copied();
  return now - std::exchange(before_, now);
}

void CopyMeter::of_segments() {
  if (device_) walked(walk_).segments += since();
}

void CopyMeter::of_item(std::size_t i) {
  if (!device_) return;
  Walked& found = walked(walk_);
  if (i >= found.by_item.size()) found.by_item.resize(i + 1);  // a node was made meanwhile
  found.by_item[i] += since();
}

MixedPlan describe_mixed(const py::list& items) {
  const Items known(items);
  const Device device = device_of(known.nodes);
  const bool on_cpu = device.type == DeviceType::cpu;
  const Walked &forward = walked(CopyMeter::forward), &backward = walked(CopyMeter::backward);
  const bool ran_forward = forward.of(items), ran_backward = ran_forward && backward.of(items);
  MixedPlan plan;
  std::vector<std::string> plans;
  {
    const Turn turn;
    plans = session().mixed.describe(known.nodes, known.begins);
  }
  const auto costs = [&](std::size_t i) {
    std::string words;
    if (ran_forward && i < forward.by_item.size()) {
      words += text("; Forward ", shown(forward.by_item[i]));
      plan.copied += forward.by_item[i];
    }
    if (ran_backward && i < backward.by_item.size()) {
      words += text("; Backward ", shown(backward.by_item[i]));
      plan.copied += backward.by_item[i];
    }
    return words;
  };
  std::string lines, ops;
  const auto end_segment = [&] {
    if (ops.empty()) return;
    lines += text(std::exchange(ops, {}), "\n");
    if (plan.segments - 1 < plans.size()) lines += indented(plans[plan.segments - 1]);
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    const py::handle item = items[i];
    const Node* node = own_node(item);
    if (node && !ops.empty() && !has_host_input(*node)) {
      ops += text(", ", node->op->name);
      continue;
    }
    end_segment();
    if (node) {
      ops = text("  ", i, " segment ", plan.segments++,
                 has_host_input(*node) ? text(" (reads NumPy", costs(i), ")") : std::string(), ": ",
                 node->op->name);
    } else {
      ++plan.host_calls;
      lines += text("  ", i, " host_call ", Py_TYPE(item.ptr())->tp_name, costs(i), "\n");
    }
  }
  end_segment();
  Copied again;
  if (ran_forward) again += forward.segments;
  if (ran_backward) again += backward.segments;
  plan.copied += again;
  plan.text = text(several(plan.segments, " segment"), " and ", several(plan.host_calls, " host_call"),
                   " on ", device_name(device), ", ",
                   on_cpu         ? "no copies: NumPy has the engine's own memory"
                   : !ran_forward ? "which have not run: what they copy is known after a step"
                                  : text("copies in the last step: ", shown(plan.copied)),
                   "\n", lines);
  if (again.to_device || again.to_host)
    plan.text += text("  segments: ", shown(again), ", of arrays that NumPy had and may have written\n");
  return plan;
}

}  // namespace edfcore
