// Stands in for cuda.cu in builds without CUDA, so that nothing above asks how the engine was built.
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

std::string cuda_device_description(int) { fail(ErrorKind::device, "CUDA is not available: ", reason, "."); }

Backend& cuda_backend(int) { fail(ErrorKind::device, "CUDA is not available: ", reason, "."); }

}  // namespace edfcore
