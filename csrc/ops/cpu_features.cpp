// Which instruction set the CPU kernels run in.
#include "ops/cpu_features.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace edfcore {
namespace {

std::atomic<bool> wants_exact{false};

bool machine_has(Isa isa) {
#if defined(EDFCORE_MULTI_ISA) && (defined(__GNUC__) || defined(__clang__))
  if (isa == Isa::exact) return true;
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && machine_has(Isa::avx2);
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(__aarch64__)
  return isa == Isa::neon;
#else
  return isa == Isa::base;
#endif
}

Isa choose() {
  constexpr Isa best_first[] = {Isa::avx512, Isa::avx2, Isa::neon, Isa::base, Isa::exact};
  if (const char* forced = std::getenv("EDFCORE_ISA"); forced && *forced) {
    for (Isa isa : best_first) {
      if (std::string_view(forced) != isa_name(isa)) continue;
      if (!machine_has(isa))
        fail(ErrorKind::device, "EDFCORE_ISA=", forced, ": this machine or build has no ", forced, ".");
      return isa;
    }
    fail(ErrorKind::device, "EDFCORE_ISA=", forced, " is not known: use base, exact, avx2, avx512 or neon.");
  }
  for (Isa isa : best_first)
    if (machine_has(isa)) return isa;
  return Isa::base;
}

}  // namespace

Isa current_isa() {
  static const Isa isa = choose();
  return isa == Isa::base && wants_exact.load(std::memory_order_relaxed) ? Isa::exact : isa;
}

const char* isa_name(Isa isa) {
  constexpr const char* names[] = {"base", "exact", "avx2", "avx512", "neon"};
  return names[static_cast<int>(isa)];
}

bool reproducible() { return wants_exact.load(std::memory_order_relaxed); }

void set_reproducible(bool on) {
  if (on && current_isa() == Isa::base && !machine_has(Isa::exact))
    fail(ErrorKind::device,
         "This build has no CPU kernels that are reproducible without fused multiply-adds.");
  wants_exact.store(on, std::memory_order_relaxed);
}

Kernel cpu_kernel(const CpuKernel& kernels, Isa isa) {
  switch (isa) {
    case Isa::exact:
      return kernels.exact;
    case Isa::avx512:
      return kernels.avx512;
    case Isa::avx2:
      return kernels.avx2;
    default:  // what the compiler's target has: NEON on aarch64
      return kernels.base;
  }
}

}  // namespace edfcore
