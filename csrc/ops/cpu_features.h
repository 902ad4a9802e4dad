// Which instruction set the CPU kernels run in: chosen once at first use, EDFCORE_ISA forces one.
#pragma once

#include "ops/op.h"

namespace edfcore {

enum class Isa : int { base, avx2, avx512, neon };

// Throws a device error when EDFCORE_ISA names one that is unknown or that this machine cannot run.
Isa current_isa();
const char* isa_name(Isa isa);

Kernel cpu_kernel(const CpuKernel& kernels);

}  // namespace edfcore
