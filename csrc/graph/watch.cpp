// Watching what runs.
#include "graph/watch.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/half.h"
#include "device/memory.h"

namespace edfcore {
namespace {

std::mutex timed_mutex;
std::vector<TimedOp>& timed() {
  static auto* const instance = new std::vector<TimedOp>;
  return *instance;
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void update_flag() { watch().on = watch().nan || watch().timing; }

struct Range {
  double least = INFINITY, most = -INFINITY;  // of the finite values
  std::int64_t bad = 0;                       // values that are not finite
  std::int64_t first_bad = -1;
  double first = 0;
};

template <class T>
double number(T x) {
  return static_cast<double>(x);
}
double number(BFloat16 x) { return double{static_cast<float>(x)}; }
double number(Float16 x) { return double{static_cast<float>(x)}; }

template <class T>
Range range_of(const void* data, std::int64_t size) {
  Range range;
  const T* x = static_cast<const T*>(data);
  for (std::int64_t i = 0; i < size; ++i) {
    const double value = number(x[i]);
    if (std::isfinite(value)) {
      range.least = std::min(range.least, value);
      range.most = std::max(range.most, value);
    } else if (range.bad++ == 0) {
      range.first_bad = i;
      range.first = value;
    }
  }
  return range;
}

Range range_of(const View& view, Device device) {
  if (!view.data) return {};
  std::vector<char> copy;
  const void* data = view.data;
  if (device.type != DeviceType::cpu) {
    copy.resize(static_cast<std::size_t>(view.size * dtype_size(view.dtype)));
    backend(device).download(copy.data(), view.data, copy.size());
    data = copy.data();
  }
  switch (view.dtype) {
    case DType::f32:
      return range_of<float>(data, view.size);
    case DType::f64:
      return range_of<double>(data, view.size);
    case DType::bf16:
      return range_of<BFloat16>(data, view.size);
    case DType::f16:
      return range_of<Float16>(data, view.size);
    case DType::i32:
      return range_of<std::int32_t>(data, view.size);
    case DType::i64:
      return range_of<std::int64_t>(data, view.size);
    case DType::u8:
      return range_of<std::uint8_t>(data, view.size);
    default:
      return {};
  }
}

Shape shape_of(const View& view) {
  return Shape(std::span<const std::int64_t>(view.dims, static_cast<std::size_t>(view.rank)));
}

std::string described(const Range& range, const View& view) {
  std::string words = text(shape_of(view));
  if (range.least <= range.most)
    words += range.least == range.most ? text(" all ", range.least)
                                       : text(" from ", range.least, " to ", range.most);
  if (range.bad > 0) words += text(" with ", range.bad, " that are not finite");
  return words;
}

// Inputs are looked at before the op runs in their memory, so only now that something is wrong.
void need_finite(const Op& op, Device device, std::span<const View> in, std::span<const View> out) {
  for (const View& view : out) {
    if (!is_floating(view.dtype)) continue;
    const Range made = range_of(view, device);
    if (made.bad == 0) continue;
    std::string inputs;
    for (std::size_t i = 0; i < in.size(); ++i)
      inputs += text(i == 0 ? "" : ", ", "input ", i, " ",
                     in[i].data ? described(range_of(in[i], device), in[i]) : "is not stored");
    const std::string value = std::isnan(made.first) ? "nan" : text(made.first);
    fail(ErrorKind::data, "[", op.name, "] made ", value, " at position ", made.first_bad, " of ",
         shape_of(view), ": ", inputs, ".");
  }
}

}  // namespace

Watch& watch() {
  static Watch instance;
  return instance;
}

void set_watch_nan(bool on) {
  watch().nan = on;
  update_flag();
}

void start_timing() {
  const std::lock_guard lock(timed_mutex);
  timed().clear();
  watch().timing = true;
  update_flag();
}

std::vector<TimedOp> stop_timing() {
  const std::lock_guard lock(timed_mutex);
  watch().timing = false;
  update_flag();
  return std::exchange(timed(), {});
}

Watched::Watched(const Op& op, const char* phase, Device device) : op_(op), phase_(phase), device_(device) {
  if (!watch().timing) return;
  if (device_.type != DeviceType::cpu) backend(device_).synchronize();
  begin_ns_ = now_ns();
}

void Watched::ended(std::span<const View> in, std::span<const View> out) const {
  if (watch().timing && begin_ns_ != 0) {
    if (device_.type != DeviceType::cpu) backend(device_).synchronize();
    const std::int64_t length = now_ns() - begin_ns_;
    const std::lock_guard lock(timed_mutex);
    timed().push_back({op_.name, phase_, out.empty() ? "" : text(shape_of(out[0])), begin_ns_, length});
  }
  if (watch().nan) need_finite(op_, device_, in, out);
}

}  // namespace edfcore
