// Which CUDA devices there are, and what they say of themselves. Nothing here creates a context.
#include <algorithm>
#include <string>

#include "core/error.h"
#include "device/backend.h"
#include "device/launch.h"

namespace edfcore {
namespace {

struct Found {
  int count = 0;
  std::string why_not;
};

const Found& devices() {
  static const Found found = [] {
    Found f;
    const cudaError_t error = cudaGetDeviceCount(&f.count);
    if (error == cudaSuccess && f.count > 0) return f;
    f.count = 0;
    int driver = 0;
    if (error == cudaSuccess) {
      f.why_not = "the CUDA driver sees no GPU";
    } else if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess &&
               driver == 0) {
      f.why_not = "no CUDA driver is installed on this machine";
    } else {
      f.why_not = text(cudaGetErrorName(error), ": ", cudaGetErrorString(error));
    }
    cudaGetLastError();
    return f;
  }();
  return found;
}

void check(cudaError_t error, int index) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail(ErrorKind::device, "cuda:", index, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error),
       ".");
}

std::int64_t attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, index), index);
  return value;
}

}  // namespace

void require_cuda_device(int index) {
  const Found& found = devices();
  if (found.count == 0) fail(ErrorKind::device, "CUDA is not available: ", found.why_not, ".");
  const int last = std::min(found.count, max_cuda_devices) - 1;
  if (index < 0 || index > last)
    fail(ErrorKind::device, "there is no cuda:", index,
         last == 0 ? text(": the only device is cuda:0.")
                   : text(": the devices are cuda:0 to cuda:", last, "."));
}

int cuda_device_count() { return std::min(devices().count, max_cuda_devices); }

std::string cuda_why_not() { return devices().why_not; }

const char* cuda_build() {
#if defined(EDFCORE_SIM)
  return "sim";
#else
  return "cuda";
#endif
}

DeviceProperties cuda_device_properties(int index) {
  require_cuda_device(index);
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, index), index);
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), index);
  check(cudaRuntimeGetVersion(&runtime), index);
  const auto version = [](int number) { return text(number / 1000, ".", number % 1000 / 10); };
  DeviceProperties p;
  p.name = prop.name;
  p.major = prop.major;
  p.minor = prop.minor;
  p.total_memory = static_cast<std::int64_t>(prop.totalGlobalMem);
  p.multiprocessors = prop.multiProcessorCount;
  p.clock_khz = attribute(cudaDevAttrClockRate, index);
  p.memory_clock_khz = attribute(cudaDevAttrMemoryClockRate, index);
  p.memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth, index);
  p.l2_bytes = attribute(cudaDevAttrL2CacheSize, index);
  p.shared_per_block = static_cast<std::int64_t>(prop.sharedMemPerBlock);
  p.shared_per_block_on_request = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  p.shared_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, index);
  p.registers_per_multiprocessor = attribute(cudaDevAttrMaxRegistersPerMultiprocessor, index);
  p.threads_per_block = prop.maxThreadsPerBlock;
  p.threads_per_multiprocessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor, index);
  p.warp_size = prop.warpSize;
  p.driver = version(driver);
  p.runtime = version(runtime);
  return p;
}

std::string cuda_device_description(int index) {
  const DeviceProperties p = cuda_device_properties(index);
  return text(p.name, ", compute capability ", p.major, ".", p.minor, ", ", p.multiprocessors,
              " multiprocessors, ", p.total_memory >> 20, " MiB, driver for CUDA ", p.driver);
}

}  // namespace edfcore
