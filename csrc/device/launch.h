// The kernel language: every .cu file includes this header and compiles with nvcc or, against the simulated
// device, with the host compiler.
//
// What a kernel file may rely on: __global__, __device__, __launch_bounds__, __grid_constant__, threadIdx,
// blockIdx, blockDim, gridDim, warpSize, __syncthreads, __syncwarp, shuffles and votes with a mask, integer
// atomics, vector types, <math.h>. Beyond CUDA's own words there are EDF_HD, EDF_UNROLL, EDF_UNROLL_BY,
// EDF_SHARED, dynamic_shared() and launch(); `__shared__` and `<<<>>>` are not to be written directly. Strict
// rules that the simulator enforces: every thread of a block reaches every __syncthreads (no early return
// before one), and a block never waits for another block.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(EDFCORE_SIM)
#include "device/sim/sim.h"
#else
#include <cuda_runtime.h>

#define EDF_UNROLL _Pragma("unroll")
#define EDF_TEXT(words) #words
#define EDF_UNROLL_BY(count) _Pragma(EDF_TEXT(unroll count))  // a constant, perhaps of a template
// EDF_SHARED(float, tile, 256); declares a block-shared array, 16-byte aligned and with undefined contents.
// Two dimensions: `using Row = float[33]; EDF_SHARED(Row, tile, 32);`.
#define EDF_SHARED(T, name, N) __shared__ __align__(16) T name[N]
#endif

#define EDF_HD __host__ __device__

namespace edfcore {

#if !defined(EDFCORE_SIM)

// The shared memory that launch() was asked for, 16-byte aligned, the same for every T.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char edfcore_dynamic_shared[];
  return reinterpret_cast<T*>(edfcore_dynamic_shared);
}

// kernel<<<grid, block, shared_bytes, stream>>>(args...). An error is left for the backend's next check:
// kernels do not throw. An empty grid is an error, as in CUDA.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            Args... args) {
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(static_cast<Params>(args)...);
}

#else

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(sim::dynamic_shared());
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, sim::StreamHere stream,
            Args... args) {
  sim::Call<Params...> call{kernel, {static_cast<Params>(args)...}};
  const sim::LaunchConfig config{grid, block, shared_bytes, reinterpret_cast<const void*>(kernel),
                                 stream.site};
  sim::run_or_write_down(config, std::move(call));
}

#endif

}  // namespace edfcore
