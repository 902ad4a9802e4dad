// Which instruction set the CPU kernels run in: chosen once at first use, EDFCORE_ISA forces one.
#pragma once

#include "ops/op.h"

namespace edfcore {

// `exact` is `base` with the fused multiply-adds of the others, in software.
enum class Isa : int { base, exact, avx2, avx512, neon };

// Throws a device error when EDFCORE_ISA names one that is unknown or that this machine cannot run.
Isa current_isa();
const char* isa_name(Isa isa);

// Results are the same bits on every machine: `exact` takes the place of `base`. Throws a device error where
// this build lacks it.
bool reproducible();
void set_reproducible(bool on);

Kernel cpu_kernel(const CpuKernel& kernels, Isa isa);

}  // namespace edfcore
