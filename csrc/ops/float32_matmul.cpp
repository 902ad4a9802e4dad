// The setting that float32_matmul.h describes.
#include "ops/float32_matmul.h"

#include <atomic>

#include "core/error.h"

namespace edfcore {
namespace {

std::atomic<Float32Matmul> setting{Float32Matmul::exact};

}  // namespace

Float32Matmul float32_matmul() { return setting.load(std::memory_order_relaxed); }

const char* float32_matmul_name(Float32Matmul how) {
  constexpr const char* names[] = {"exact", "high", "medium"};
  return names[static_cast<int>(how)];
}

void set_float32_matmul(const std::string& name) {
  for (const Float32Matmul how : {Float32Matmul::exact, Float32Matmul::high, Float32Matmul::medium}) {
    if (name != float32_matmul_name(how)) continue;
    setting.store(how, std::memory_order_relaxed);
    return;
  }
  fail(ErrorKind::data, "set_float32_matmul: '", name,
       "' is not known: use \"exact\", \"high\" or \"medium\".");
}

}  // namespace edfcore
