// Stands in for cuda.cu in builds without CUDA, so that nothing above asks how the engine was built.
#include <cstdlib>

#include "core/error.h"
#include "device/backend.h"

namespace edfcore {
namespace {

constexpr const char* reason =
    "edfcore was built without CUDA (EDFCORE_CUDA=OFF, or AUTO with no nvcc or no GPU in sight). Build it "
    "with "
    "EDFCORE_CUDA=ON, or with EDFCORE_CUDA=SIM for a simulated device";

}  // namespace

int cuda_device_count() { return 0; }

std::string cuda_why_not() { return reason; }

const char* cuda_build() { return "none"; }

void require_cuda_device(int) { fail(ErrorKind::device, "CUDA is not available: ", reason, "."); }

DeviceProperties cuda_device_properties(int index) {
  require_cuda_device(index);
  return {};
}

std::string cuda_device_description(int index) { return cuda_device_properties(index).name; }

Backend& cuda_backend(int index) {
  require_cuda_device(index);
  std::abort();  // never: there is none
}

}  // namespace edfcore
