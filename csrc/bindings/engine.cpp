// Devices, threads and memory: what the engine says of itself.
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "core/parallel.h"
#include "device/backend.h"
#include "graph/run.h"
#include "graph/session.h"
#include "ops/cpu_features.h"
#include "ops/float32_matmul.h"

namespace edfcore {
namespace {

py::dict memory_stats(const std::string& device) {
  finish_step();
  const MemoryStats stats = backend(parse_device(device)).memory_stats();
  py::dict result;
  result["bytes"] = stats.bytes;
  result["peak_bytes"] = stats.peak_bytes;
  result["cached_bytes"] = stats.cached_bytes;
  result["allocations"] = stats.allocations;
  return result;
}

// As edfcore.cuda.Properties takes them.
py::dict cuda_properties(int index) {
  const DeviceProperties p = cuda_device_properties(index);
  py::dict result;
  result["name"] = p.name;
  result["major"] = p.major;
  result["minor"] = p.minor;
  result["total_memory"] = p.total_memory;
  result["multi_processor_count"] = p.multiprocessors;
  result["clock_rate"] = p.clock_khz;
  result["memory_clock_rate"] = p.memory_clock_khz;
  result["memory_bus_width"] = p.memory_bus_bits;
  result["L2_cache_size"] = p.l2_bytes;
  result["shared_memory_per_block"] = p.shared_per_block;
  result["shared_memory_per_block_optin"] = p.shared_per_block_on_request;
  result["shared_memory_per_multiprocessor"] = p.shared_per_multiprocessor;
  result["regs_per_multiprocessor"] = p.registers_per_multiprocessor;
  result["max_threads_per_block"] = p.threads_per_block;
  result["max_threads_per_multi_processor"] = p.threads_per_multiprocessor;
  result["warp_size"] = p.warp_size;
  result["driver_version"] = p.driver;
  result["runtime_version"] = p.runtime;
  return result;
}

// A moment in the work of a CUDA device.
class Event {
 public:
  explicit Event(int index)
      : device_(&backend({DeviceType::cuda, static_cast<std::int8_t>(std::clamp(index, -1, 127))})),
        event_(device_->new_event()) {}
  ~Event() { device_->free_event(event_); }
  Event(const Event&) = delete;

  void record() {
    finish_step();
    const py::gil_scoped_release release;
    device_->record_event(event_);
    recorded_ = true;
  }
  double elapsed_time(const Event& end) const {
    if (!recorded_ || !end.recorded_) fail(ErrorKind::graph, "Event: both must have been recorded.");
    if (device_ != end.device_) fail(ErrorKind::device, "Event: both must be of the same device.");
    const py::gil_scoped_release release;
    return 1e3 * device_->seconds(event_, end.event_);
  }

 private:
  Backend* device_;
  void* event_;
  bool recorded_ = false;
};

}  // namespace

void init_engine(py::module_& m) {
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("isa", [] { return isa_name(current_isa()); }, "The instruction set that CPU kernels run in.");
  m.def("reproducible", &reproducible);
  m.def(
      "set_reproducible",
      [](bool on) {
        finish_step();
        set_reproducible(on);
      },
      py::arg("on"));
  m.def("float32_matmul", [] { return float32_matmul_name(float32_matmul()); });
  m.def(
      "set_float32_matmul",
      [](const std::string& how) {
        finish_step();
        set_float32_matmul(how);
      },
      py::arg("how"));
  m.def(
      "set_device",
      [](const std::string& name) {
        const Device device = parse_device(name);
        backend(device);  // throws when it is not there
        current_device() = device;
      },
      py::arg("name"));
  m.def("get_device", [] { return device_name(current_device()); });
  m.def("cuda_build", &cuda_build, "\"cuda\", \"sim\" or \"none\": what this build holds.");
  m.def("cuda_device_count", &cuda_device_count);
  m.def("cuda_why_not", &cuda_why_not);
  m.def("cuda_device_description", &cuda_device_description, py::arg("index") = 0);
  py::class_<Event>(m, "Event", "A moment in the work of a CUDA device, as `torch.cuda.Event` has it.")
      .def(py::init<int>(), py::arg("index") = 0)
      .def("record", &Event::record, "Mark what the device has been given, what was put off among it.")
      .def("elapsed_time", &Event::elapsed_time, py::arg("end"),
           "Milliseconds of the device's from this moment to another, for which it waits.");
  m.def("cuda_properties", &cuda_properties, py::arg("index"));
  m.def(
      "synchronize",
      [](const std::string& device) {
        finish_step();
        const Device which = parse_device(device);
        py::gil_scoped_release release;
        backend(which).synchronize();
        check_status(which);
      },
      py::arg("device"));
  m.def("memory_stats", &memory_stats, py::arg("device"));
  m.def(
      "reset_peak_memory", [](const std::string& device) { backend(parse_device(device)).reset_peak(); },
      py::arg("device"));
  m.def(
      "empty_cache",
      [](const std::string& device) {
        leave_session(true);
        const Turn turn;
        session().cache.clear();
        session().replays.clear();
        release_arena(parse_device(device));
        backend(parse_device(device)).empty_cache();
      },
      py::arg("device"));
}

}  // namespace edfcore
