// What the simulated device says of itself: it has no clocks and no caches.
#include <stdio.h>
#include <stdlib.h>

#include "device/sim/memory.h"

using namespace edfcore::sim;

namespace {

int capability() {
  const char* value = getenv("EDFCORE_SIM_CAPABILITY");
  return value != nullptr ? atoi(value) : 90;
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  if (device != 0) return set_error(cudaErrorInvalidDevice);
  *prop = {};
  snprintf(prop->name, sizeof prop->name, "simulated device");
  prop->totalGlobalMem = memory_limit();
  prop->sharedMemPerBlock = 48 << 10;
  prop->major = capability() / 10;
  prop->minor = capability() % 10;
  prop->multiProcessorCount = 4;  // few, so that grid-stride loops go round more than once
  prop->maxThreadsPerBlock = 1024;
  prop->warpSize = 32;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? state() : set_error(cudaErrorInvalidDevice); }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return set_error(cudaErrorInvalidDevice);
  *value = 0;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 1024;  // one block at a time
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(max_dynamic_shared);
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
    case cudaDevAttrGlobalMemoryBusWidth:
    case cudaDevAttrL2CacheSize:
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaSimFuncGetAttributes(cudaFuncAttributes* attributes) {
  attributes->ptxVersion = capability();
  return cudaSuccess;
}
