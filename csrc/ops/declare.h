// For the record files (ops/*.cpp): declares a kernel for every instruction set and device of this build, and
// names it.
#pragma once

#include "ops/op.h"

#define EDF_DECLARE_CPU_KERNEL_IN(isa, kernel) \
  namespace isa {                              \
  void kernel(const Launch&);                  \
  }

// Kernels without multiply-adds are compiled once for base and exact: the build says which have some.
#if defined(EDFCORE_EXACT_KERNELS)
#define EDF_ISA_EXACT isa_exact
#else
#define EDF_ISA_EXACT isa_base
#endif

#if defined(EDFCORE_MULTI_ISA)  // x86-64: one build for all instruction sets
#define EDF_CPU_KERNEL(kernel) \
  CpuKernel { &isa_base::kernel, &EDF_ISA_EXACT::kernel, &isa_avx2::kernel, &isa_avx512::kernel }
#define EDF_DECLARE_CPU_KERNEL(kernel)             \
  EDF_DECLARE_CPU_KERNEL_IN(isa_base, kernel)      \
  EDF_DECLARE_CPU_KERNEL_IN(EDF_ISA_EXACT, kernel) \
  EDF_DECLARE_CPU_KERNEL_IN(isa_avx2, kernel)      \
  EDF_DECLARE_CPU_KERNEL_IN(isa_avx512, kernel)
#else
#define EDF_CPU_KERNEL(kernel) \
  CpuKernel { &isa_base::kernel, nullptr, nullptr, nullptr }
#define EDF_DECLARE_CPU_KERNEL(kernel) EDF_DECLARE_CPU_KERNEL_IN(isa_base, kernel)
#endif

#if defined(EDFCORE_HAS_CUDA)  // under nvcc or on the simulated device
#define EDF_CUDA_KERNEL(kernel) (&cuda::kernel)
#define EDF_DECLARE_CUDA_KERNEL(kernel) EDF_DECLARE_CPU_KERNEL_IN(cuda, kernel)
#define EDF_DECLARE_CUDA_MANY(kernel)       \
  namespace cuda {                          \
  void kernel(const Launch*, std::int64_t); \
  }
namespace edfcore::cuda {
void chain_kernel(const Chain&);  // of all elementwise ops that are part of chains
}
#else
#define EDF_CUDA_KERNEL(kernel) nullptr
#define EDF_DECLARE_CUDA_KERNEL(kernel)
#define EDF_DECLARE_CUDA_MANY(kernel)
#endif

// In the record of an elementwise op whose formula is part of chains.
#define EDF_CHAINED(op) .cuda_chain = EDF_CUDA_KERNEL(chain_kernel), .formula = Formula::op

// EDF_KERNEL(softmax) at namespace edfcore declares softmax_kernel everywhere.
#define EDF_KERNEL(name)                \
  EDF_DECLARE_CPU_KERNEL(name##_kernel) \
  EDF_DECLARE_CUDA_KERNEL(name##_kernel)
